"""Records as token ids, whole-word ids and masks."""

from __future__ import annotations

import numpy as np
import pytest

from podx.errors import ConfigError, TokenizerError
from podx.text.inputs import InputEncoder, item_target_tokens, pad_rows
from podx.text.templates import DEFAULT_TEMPLATES, Task, Template
from podx.text.tokenizer import Tokenizer


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> InputEncoder:
    return InputEncoder(tokenizer)


def by_hand(tokenizer: Tokenizer, words: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    """Tokens and whole-word ids of (word, whole-word id) pairs and the end of sequence."""
    ids, whole = [], []
    for word, number in words:
        tokens = tokenizer.encode(word)
        ids += tokens
        whole += [number] * len(tokens)
    return [*ids, tokenizer.eos_id], [*whole, 0]


def test_the_bare_input_is_the_ids(encoder: InputEncoder, tokenizer: Tokenizer) -> None:
    record = encoder.encode(Task.SEQUENTIAL, 7, [12, 345, 12])
    ids, whole = by_hand(tokenizer, [("user_7", 1), ("item_12", 2), ("item_345", 3), ("item_12", 4)])
    assert (record.input_ids.tolist(), record.whole_word_ids.tolist()) == (ids, whole)
    assert record.input_ids.dtype == record.whole_word_ids.dtype == np.int64
    assert len(record) == len(ids) > 5


def test_whole_words_are_numbered_in_order_of_appearance(encoder: InputEncoder, tokenizer: Tokenizer) -> None:
    template = Template.parse(Task.SEQUENTIAL, "now {history} to {user} and")
    record = encoder.encode(Task.SEQUENTIAL, 7, [12, 345], template)
    ids, whole = by_hand(tokenizer, [("now", 0), ("item_12", 1), ("item_345", 2), ("to", 0), ("user_7", 3), ("and", 0)])
    assert (record.input_ids.tolist(), record.whole_word_ids.tolist()) == (ids, whole)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("warm", [False, True])
def test_every_template_reads_like_its_text(tokenizer: Tokenizer, task: Task, warm: bool) -> None:
    encoder = InputEncoder(tokenizer)
    if warm:
        encoder.warm(users=20, items=20)
    items = [3, 14] if task is not Task.EXPLANATION else [14]
    written = {"{user}": "user_5", "{item}": "item_14"}
    for template in DEFAULT_TEMPLATES[task]:
        text = " ".join(written.get(w, "item_3 item_14" if w.startswith("{") else w) for w in template.words)
        for _ in range(2):  # from the tokeniser, then from the caches
            record = encoder.encode(task, 5, items, template)
            assert record.input_ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_id]


def test_warm_leaves_nothing_for_the_tokeniser(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = InputEncoder(tokenizer)
    expected = encoder.encode(Task.SEQUENTIAL, 2, [1, 3]).input_ids.tolist()
    warm = InputEncoder(tokenizer)
    warm.warm(users=2, items=3)
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: pytest.fail(f"{text} was tokenised again"))
    assert warm.encode(Task.SEQUENTIAL, 2, [1, 3]).input_ids.tolist() == expected


@pytest.mark.parametrize("warm", [0, 3, 12])
def test_a_service_that_meets_many_ids_keeps_few_of_them(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, warm: int
) -> None:
    requests = [(user, [user, user + 7, 3]) for user in (*range(1, 30), *range(1, 30))]
    expected = [InputEncoder(tokenizer).encode(Task.SEQUENTIAL, *request).input_ids.tolist() for request in requests]
    monkeypatch.setattr("podx.text.inputs.MOST_WORDS", 8)
    encoder = InputEncoder(tokenizer)
    encoder.warm(warm, warm)
    for request, ids in zip(requests, expected, strict=True):
        assert encoder.encode(Task.SEQUENTIAL, *request).input_ids.tolist() == ids
        assert max(len(encoder._users), len(encoder._items)) <= max(8, warm + 1)


def test_items_may_be_written_otherwise(tokenizer: Tokenizer) -> None:
    encoder = InputEncoder(tokenizer, item_text=lambda number: f"x{number}y")
    record = encoder.encode(Task.EXPLANATION, 1, [4])
    assert record.input_ids.tolist() == by_hand(tokenizer, [("user_1", 1), ("item_x4y", 2)])[0]


def test_more_ids_than_whole_word_rows_are_refused(encoder: InputEncoder) -> None:
    assert encoder.encode(Task.TOPN, 1, [1] * 510).whole_word_ids.max() == 511
    with pytest.raises(ConfigError, match="511 items and a user need more than the model's 512 whole-word rows"):
        encoder.encode(Task.TOPN, 1, [1] * 511)


def test_a_template_of_another_task_is_refused(encoder: InputEncoder) -> None:
    with pytest.raises(ConfigError, match="topn cannot word a record of task sequential"):
        encoder.encode(Task.SEQUENTIAL, 1, [1], DEFAULT_TEMPLATES[Task.TOPN][0])


def test_batches_are_padded_on_the_right(encoder: InputEncoder, tokenizer: Tokenizer) -> None:
    records = [encoder.encode(Task.SEQUENTIAL, 1, list(range(1, n + 1))) for n in (2, 5, 1)]
    batch = encoder.collate(records)
    assert batch.size == 3
    assert batch.input_ids.shape == batch.whole_word_ids.shape == batch.attention_mask.shape == (3, len(records[1]))
    for row, record in enumerate(records):
        n = len(record)
        assert batch.input_ids[row, :n].tolist() == record.input_ids.tolist()
        assert batch.whole_word_ids[row, :n].tolist() == record.whole_word_ids.tolist()
        assert (batch.input_ids[row, n:] == tokenizer.pad_id).all() and not batch.whole_word_ids[row, n:].any()
        assert batch.attention_mask[row].tolist() == [1] * n + [0] * (len(records[1]) - n)


def test_pad_rows() -> None:
    assert pad_rows([np.array([1, 2]), np.array([], dtype=np.int64), np.array([3])], -1).tolist() == [
        [1, 2],
        [-1, -1],
        [3, -1],
    ]
    assert pad_rows([], 0).shape == (0, 0)
    row = np.array([4, 5], dtype=np.int32)
    alone = pad_rows([row], 0)
    assert alone.tolist() == [[4, 5]] and alone.dtype == np.int64
    assert pad_rows([np.zeros(0, dtype=np.int64)], 0).shape == (1, 0)
    assert not np.shares_memory(pad_rows([alone[0]], 0), alone), "who pads may write into it"


def test_item_targets_have_no_prefix_and_no_end(tokenizer: Tokenizer) -> None:
    assert item_target_tokens(tokenizer, ["12", "345"]) == [list(tokenizer.encode(text)) for text in ("12", "345")]


@pytest.mark.parametrize("text", ["", "  ", "漢"])
def test_items_the_tokeniser_cannot_write_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(TokenizerError, match="cannot write the item id"):
        item_target_tokens(tokenizer, ["12", text])
