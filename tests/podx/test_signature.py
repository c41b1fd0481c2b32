"""Tensor names and axes that exporter and runtime share."""

from __future__ import annotations

from podx.bundle.signature import (
    LOG_PROBS,
    MEMORY_MASK,
    OUTPUT_TOKENS,
    USER_ROWS,
    ModelShape,
    encoder_inputs,
    log_probs_tensor,
    memory_tensors,
    past_tensors,
    present_tensors,
    step_inputs,
    text_cache,
    text_step_inputs,
    text_step_outputs,
)

SHAPE = ModelShape(decoder_layers=3, heads=2, head_dim=4, vocab_size=50)


def test_names_are_distinct_within_a_graph() -> None:
    encoder = [spec.name for spec in (*encoder_inputs(), *memory_tensors(SHAPE))]
    decoder_specs = (*step_inputs(True), *memory_tensors(SHAPE), *past_tensors(SHAPE), *present_tensors(SHAPE))
    decoder = [LOG_PROBS, *(spec.name for spec in decoder_specs)]
    text_inputs = (*text_step_inputs(), *memory_tensors(SHAPE), *text_cache(SHAPE))
    text = [spec.name for spec in (*text_inputs, *text_step_outputs(), *text_cache(SHAPE, after=True))]
    for names in (encoder, decoder, text):
        assert len(set(names)) == len(names)


def test_a_text_decoder_fills_the_cache_that_it_reads() -> None:
    before, after = text_cache(SHAPE), text_cache(SHAPE, after=True)
    assert [spec.name for spec in before] == [spec.name for spec in past_tensors(SHAPE)]
    assert [spec.name for spec in after] == [spec.name for spec in present_tensors(SHAPE)]
    assert [spec.axes for spec in (*before, *after)] == [("rows", 2, "width", 4)] * 12


def test_only_models_with_vectors_of_users_read_their_rows() -> None:
    plain, more = encoder_inputs(), encoder_inputs(user_rows=True)
    assert more[:-1] == plain and (more[-1].name, more[-1].axes) == (USER_ROWS, ("batch", "user_neighbours"))


def test_there_is_one_key_and_value_per_layer() -> None:
    memory = memory_tensors(SHAPE)
    assert memory[0].name == MEMORY_MASK and memory[0].dtype == "int64"
    assert [spec.axes for spec in memory[1:]] == [("batch", 2, "memory", 4)] * 6
    assert [spec.axes for spec in past_tensors(SHAPE)] == [("batch", 2, "past", 4)] * 6
    assert [spec.axes for spec in present_tensors(SHAPE)] == [("batch", 2, "slots", 4)] * 6


def test_only_the_item_decoder_is_told_what_to_score() -> None:
    assert OUTPUT_TOKENS not in [spec.name for spec in step_inputs(items_only=False)]
    assert OUTPUT_TOKENS in [spec.name for spec in step_inputs(items_only=True)]
    assert log_probs_tensor(SHAPE, items_only=False).axes[-1] == SHAPE.vocab_size
    assert log_probs_tensor(SHAPE, items_only=True).axes[-1] == "output_tokens"
