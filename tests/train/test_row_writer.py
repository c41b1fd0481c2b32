"""Rows of a whole batch are those that the encoder writes one by one."""

from __future__ import annotations

import numpy as np
import pytest

from podx.errors import ConfigError
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, Task, Template
from podx.text.tokenizer import Tokenizer
from podx_train.batches.row_writer import RowWriter, padded, ragged
from podx_train.batches.samplers import Record

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


def assert_rows_are_the_encoders(encoder: InputEncoder, writer: RowWriter, records: list[Record], choices, wordings):
    rows = writer.write(records, choices)
    ends = np.cumsum(rows.lengths)
    for record, choice, first, end in zip(records, choices, ends - rows.lengths, ends, strict=True):
        chosen = wordings[record.task]
        one = encoder.encode(record.task, record.user, record.items, chosen[int(choice * len(chosen))])
        assert rows.input_ids[first:end].tolist() == one.input_ids.tolist()
        assert rows.whole_word_ids[first:end].tolist() == one.whole_word_ids.tolist()


@pytest.mark.parametrize("warm", [(0, 0), (5, 7), (USERS, ITEMS)])
def test_rows_in_every_wording(tokenizer: Tokenizer, warm: tuple[int, int]) -> None:
    encoder = InputEncoder(tokenizer)
    encoder.warm(*warm)
    writer = RowWriter(encoder, DEFAULT_TEMPLATES)
    rng = np.random.default_rng(1)
    for seed in range(4):
        records = random_records(60, seed)
        assert_rows_are_the_encoders(encoder, writer, records, rng.random(60), DEFAULT_TEMPLATES)


def test_rows_in_the_encoders_own_wording(tokenizer: Tokenizer) -> None:
    own = Template.parse(Task.SEQUENTIAL, "after {history} what will {user} take ?")
    encoder = InputEncoder(tokenizer, templates={Task.SEQUENTIAL: own})
    wordings = dict.fromkeys(ALL_TASKS, (None,))
    records = random_records(40, 9)
    assert_rows_are_the_encoders(encoder, RowWriter(encoder, wordings), records, np.zeros(40), wordings)


def test_too_many_ids_are_an_error(tokenizer: Tokenizer) -> None:
    writer = RowWriter(InputEncoder(tokenizer, whole_word_rows=8), {Task.SEQUENTIAL: (None,)})
    fits, long = (Record(Task.SEQUENTIAL, 1, np.arange(1, n + 1), np.array([1])) for n in (6, 7))
    assert writer.write([fits], np.zeros(1)).lengths[0] > 6
    with pytest.raises(ConfigError, match="7 items and a user need more than the model's 8"):
        writer.write([fits, long], np.zeros(2))


def test_ragged_and_padded() -> None:
    lengths = np.array([2, 0, 3])
    assert ragged(lengths).tolist() == [0, 1, 0, 1, 2]
    inside = np.arange(3)[None, :] < lengths[:, None]
    table = padded(np.array([5, 6, 7, 8, 9]), inside, -1)
    assert table.tolist() == [[5, 6, -1], [-1, -1, -1], [7, 8, 9]]
