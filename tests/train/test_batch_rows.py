"""Rows of a whole batch are the records word by word, padded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from podx.errors import ConfigError
from podx.text.inputs import PLAIN_WORD, InputEncoder
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, USER_PLACEHOLDER, Task, Template, bare_template
from podx.text.tokenizer import Tokenizer
from podx_train.batches.batching import BatchBuilder, Drawn
from podx_train.batches.samplers import Pool, Record

USERS, ITEMS = 48, 130


def random_records(count: int, seed: int) -> list[Record]:
    """Records of all tasks, with histories of 0 to 30 items."""
    rng = np.random.default_rng(seed)
    tasks = [ALL_TASKS[number] for number in rng.integers(0, 3, count)]
    return [
        Record(
            task,
            int(rng.integers(1, USERS + 1)),
            rng.integers(1, ITEMS + 1, 1 if task is Task.EXPLANATION else rng.integers(0, 31)).astype(np.int32),
            np.array([1]),
        )
        for task in tasks
    ]


def by_hand(encoder: InputEncoder, template: Template, record: Record) -> tuple[list[int], list[int]]:
    """Tokens and whole-word ids of a record, word by word."""
    tokens, whole, numbered = [], [], 0
    for word in template.words:
        if not word.startswith("{"):
            texts = [word]
        elif word == USER_PLACEHOLDER:
            texts = [f"user_{record.user}"]
        else:
            texts = [f"item_{item}" for item in record.items]
        for text in texts:
            numbered += word.startswith("{")
            part = encoder.tokenizer.encode(text)
            tokens += [*part]
            whole += [numbered if word.startswith("{") else PLAIN_WORD] * len(part)
    return [*tokens, encoder.tokenizer.eos_id], [*whole, PLAIN_WORD]


def builder_of(
    encoder: InputEncoder, make_model, templates: Mapping[Task, tuple[Template, ...]] | None
) -> BatchBuilder:
    pools = [Pool(task, 1, lambda *_: []) for task in ALL_TASKS]
    return BatchBuilder(make_model().config, encoder, pools, templates)


def assert_rows_are_by_hand(encoder: InputEncoder, builder: BatchBuilder, records: list[Record], choices, wordings):
    rows = builder.write(Drawn(records, choices, 1.0))
    for record, choice, row in zip(records, choices, rows, strict=True):
        chosen = wordings[record.task]
        tokens, whole = by_hand(encoder, chosen[int(choice * len(chosen))], record)
        assert row.input_ids.tolist() == tokens
        assert row.whole_word_ids.tolist() == whole


@pytest.mark.parametrize("warm", [(0, 0), (5, 7), (USERS, ITEMS)])
def test_rows_in_every_wording(tokenizer: Tokenizer, make_model, warm: tuple[int, int]) -> None:
    encoder = InputEncoder(tokenizer)
    encoder.warm(*warm)
    builder = builder_of(encoder, make_model, DEFAULT_TEMPLATES)
    rng = np.random.default_rng(1)
    for seed in range(4):
        records = random_records(60, seed)
        assert_rows_are_by_hand(encoder, builder, records, rng.random(60), DEFAULT_TEMPLATES)


def test_rows_in_the_encoders_own_wording(tokenizer: Tokenizer, make_model) -> None:
    own = Template.parse(Task.SEQUENTIAL, "after {history} what will {user} take ?")
    encoder = InputEncoder(tokenizer, templates={Task.SEQUENTIAL: own})
    wordings = {task: (own if task is Task.SEQUENTIAL else bare_template(task),) for task in ALL_TASKS}
    builder = builder_of(encoder, make_model, None)
    assert_rows_are_by_hand(encoder, builder, random_records(40, 9), np.zeros(40), wordings)


def test_too_many_ids_are_an_error(tokenizer: Tokenizer, make_model) -> None:
    builder = builder_of(InputEncoder(tokenizer, whole_word_rows=8), make_model, None)
    fits, long = (Record(Task.SEQUENTIAL, 1, np.arange(1, n + 1), np.array([1])) for n in (6, 7))
    assert len(builder.write(Drawn([fits], np.zeros(1), 1.0))[0]) > 6
    with pytest.raises(ConfigError, match="7 items and a user need more than the model's 8"):
        builder.write(Drawn([fits, long], np.zeros(2), 1.0))


def test_rows_are_padded(tokenizer: Tokenizer, make_model) -> None:
    builder = builder_of(InputEncoder(tokenizer), make_model, None)
    records = [Record(Task.SEQUENTIAL, 1, np.arange(1, n + 1), np.array([1])) for n in (2, 0, 3)]
    drawn = Drawn(records, np.zeros(3), 1.0)
    rows = builder.write(drawn)
    batch = builder.pad(drawn, rows).batch
    longest = max(map(len, rows))
    for number, row in enumerate(rows):
        rest = longest - len(row)
        assert batch.input_ids[number].tolist() == [*row.input_ids, *[tokenizer.pad_id] * rest]
        assert batch.whole_word_ids[number].tolist() == [*row.whole_word_ids, *[PLAIN_WORD] * rest]
        assert batch.attention_mask[number].tolist() == [1] * len(row) + [0] * rest
