from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from podx.errors import CheckpointError, ConfigError
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, Task
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import ModelBatch, PodT5


def batch_of(encoder: InputEncoder, model: PodT5, records: list[tuple[Task, int, list[int]]]) -> ModelBatch:
    collated = encoder.collate([encoder.encode(*record) for record in records])
    rows = np.array([model.config.task_row(task) for task, _, _ in records])
    arrays = (collated.input_ids, collated.whole_word_ids, collated.attention_mask, rows)
    return ModelBatch(*(torch.from_numpy(array) for array in arrays))


RECORDS = [(Task.SEQUENTIAL, 3, [5, 6]), (Task.TOPN, 4, list(range(1, 40))), (Task.EXPLANATION, 1, [2])]
LABELS = torch.tensor([[7, 9, 1], [8, 1, IGNORED_LABEL], [11, 12, 1]])


def test_loss_is_equation_one(make_model, encoder) -> None:
    model = make_model()
    batch = batch_of(encoder, model, RECORDS)
    logits = model.logits(batch, LABELS)
    by_hand = []
    for row in range(3):
        targets = [t for t in LABELS[row].tolist() if t != IGNORED_LABEL]
        scores = [-torch.log_softmax(logits[row, step], dim=0)[token].item() for step, token in enumerate(targets)]
        by_hand.append(sum(scores) / len(scores))
    assert model(batch, LABELS).item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    assert by_hand[1] != pytest.approx(by_hand[0])


def test_weights_take_the_place_of_the_mean(make_model, encoder) -> None:
    model = make_model()
    batch = batch_of(encoder, model, RECORDS)
    losses = model.sample_losses(batch, LABELS)
    weighted = model(batch, LABELS, torch.tensor([0.5, 0.0, 2.0]))
    assert weighted.item() == pytest.approx((0.5 * losses[0] + 2 * losses[2]).item(), rel=1e-5)


def test_batched_equals_single(make_model, encoder) -> None:
    model = make_model()
    together = model.sample_losses(batch_of(encoder, model, RECORDS), LABELS)
    for row, record in enumerate(RECORDS):
        labels = LABELS[row][LABELS[row] != IGNORED_LABEL][None]
        alone = model.sample_losses(batch_of(encoder, model, [record]), labels)
        assert alone.item() == pytest.approx(together[row].item(), rel=1e-5)


def test_encode_puts_prompts_in_front_and_extends_the_mask(make_model, encoder) -> None:
    model = make_model(prompts=4)
    batch = batch_of(encoder, model, RECORDS)
    hidden, mask = model.encode(batch)
    assert hidden.shape == (3, 4 + batch.input_ids.shape[1], 16)
    assert mask[:, :4].all()
    assert torch.equal(mask[:, 4:], batch.attention_mask)


def test_each_task_has_prompts_of_its_own(make_model, encoder) -> None:
    model = make_model()
    batch = batch_of(encoder, model, [RECORDS[0], RECORDS[0]])
    hidden, _ = model.encode(batch._replace(task_index=torch.tensor([0, 1])))
    assert not torch.allclose(hidden[0], hidden[1])
    hidden, _ = model.encode(batch._replace(task_index=torch.tensor([1, 1])))
    assert torch.allclose(hidden[0], hidden[1])


def test_tokens_of_one_id_share_a_whole_word_row(make_model, encoder, tokenizer) -> None:
    model = make_model()
    batch = batch_of(encoder, model, [(Task.SEQUENTIAL, 3, [117])])
    words = batch.whole_word_ids[0].tolist()
    item_tokens = len(tokenizer.encode("item_117"))
    assert item_tokens > 1
    assert words.count(2) == item_tokens
    base, _ = model.encode(batch)
    with torch.no_grad():
        model.whole_word.weight[2] += 1.0
    moved, _ = model.encode(batch)
    assert not torch.allclose(base, moved)
    with torch.no_grad():
        model.whole_word.weight[5] += 1.0  # no word of this input has this row
    assert torch.equal(moved, model.encode(batch)[0])


def test_whole_word_on_prompt_is_a_switch(make_model, encoder) -> None:
    plain, switched = make_model(seed=1), make_model(seed=1, whole_word_on_prompt=True)
    batch = batch_of(encoder, plain, RECORDS)
    assert not torch.allclose(plain.encode(batch)[0], switched.encode(batch)[0])
    with torch.no_grad():
        switched.whole_word.weight[0] = 0.0
        plain.whole_word.weight[0] = 0.0
    assert torch.allclose(plain.encode(batch)[0], switched.encode(batch)[0], atol=1e-6)


def test_initial_values(make_model) -> None:
    model = make_model(prompts=40)
    assert model.prompts.shape == (3, 40, 16)
    assert model.prompts.abs().max() <= 0.1
    assert model.prompts.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    assert model.whole_word.weight.shape == (512, 16)
    assert model.whole_word.weight.std().item() == pytest.approx(1.0, rel=0.05)


def test_config_round_trip(make_model) -> None:
    config = make_model(tasks=(Task.TOPN, Task.EXPLANATION), whole_word_on_prompt=True, max_history=7).config
    again = PodConfig.from_json(config.to_json())
    assert again == config
    assert again.t5_config().to_dict() == config.t5_config().to_dict()
    assert again.task_row(Task.EXPLANATION) == 1


@pytest.mark.parametrize(
    "change", [{"format_version": 99}, {"tasks": ["cooking"]}, {"prompts": -1}, {"surprise": 1}, {"backbone": None}]
)
def test_faulty_config_is_a_checkpoint_error(make_model, change: dict[str, object]) -> None:
    content = json.loads(make_model().config.to_json()) | change
    with pytest.raises(CheckpointError):
        config = PodConfig.from_json(json.dumps(content))
        config.t5_config()


def test_config_text_that_is_no_json() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        PodConfig.from_json("{")


def test_unknown_task_and_repeated_tasks(make_model, t5_config) -> None:
    with pytest.raises(ConfigError, match="no prompts for task topn"):
        make_model(tasks=(Task.SEQUENTIAL,)).config.task_row(Task.TOPN)
    with pytest.raises(ConfigError, match="different tasks"):
        PodConfig(backbone=backbone_fields(t5_config), tasks=(Task.TOPN, Task.TOPN))


def test_parameter_counts(make_model) -> None:
    model = make_model()
    counts = model.parameter_counts()
    assert counts["all"] - counts["beyond_embedding"] == model.backbone.shared.weight.numel()
    assert len(ALL_TASKS) * 3 * 16 < counts["beyond_embedding"]
