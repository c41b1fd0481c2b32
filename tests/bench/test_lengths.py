"""Requests of one length, and what they are counted with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from podx.errors import ConfigError
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import plan_task
from podx_bench.workload.scenarios import fixed_length, trimmed
from podx_bench.workload.work import RequestReader, WorkItem
from podx_train.data.dataset import Dataset

USER_TOKENS, ITEM_TOKENS = 1, 2
"""What :class:`SpellingTokenizer` makes of a user, and of an item below 10; larger ones take one more."""


class SpellingTokenizer:
    """A token for a user; for an item one and one for each digit."""

    eos_id, pad_id = 1, 0

    def encode(self, word: str) -> list[int]:
        return [3] if word.startswith("user") else [4, *(5 + int(digit) for digit in word.removeprefix("item_"))]


class Numbers:
    """Raw ids in order of their numbers."""

    def __init__(self, raw_ids: list[str]) -> None:
        self._raw_ids = raw_ids

    def number(self, raw: str) -> int:
        return self._raw_ids.index(raw) + 1


def bundle_of(dataset: Dataset, max_history: int = 20) -> Any:
    """What lengths need of a bundle, as if exported from ``dataset``."""
    catalog = SimpleNamespace(text=str, items=Numbers(dataset.item_ids), trie=SimpleNamespace(depth=3))
    tokenizer: Any = SpellingTokenizer()
    return SimpleNamespace(
        tokenizer=tokenizer,
        input_encoder=lambda: InputEncoder(tokenizer, whole_word_rows=64),
        catalog=catalog,
        users=SimpleNamespace(ids=Numbers(dataset.user_ids)),
        manifest=SimpleNamespace(whole_word_rows=64, max_history=max_history, one_pass=False),
    )


@pytest.fixture
def reader(dataset: Dataset) -> RequestReader:
    return RequestReader(bundle_of(dataset), Task.SEQUENTIAL)


def test_a_length_is_of_user_items_and_the_end(reader: RequestReader) -> None:
    assert len(reader.encode(WorkItem("carol", ("item-1",)))) == USER_TOKENS + ITEM_TOKENS + 1
    assert len(reader.encode(WorkItem("bob", ("item-1", "item-12")))) == USER_TOKENS + 2 * ITEM_TOKENS + 1 + 1
    assert reader.lengths([WorkItem("bob", ("item-1",)), WorkItem("bob", ("item-12",))]).tolist() == [4, 5]


def test_a_history_is_cut_at_its_older_end_and_stays_excluded(reader: RequestReader) -> None:
    request = WorkItem("carol", ("item-10", "item-2", "item-3"), exclude=("item-4",))
    assert trimmed(request, 9, reader) == request
    assert trimmed(request, 8, reader) == WorkItem("carol", ("item-2", "item-3"), ("item-4", "item-10"))
    assert trimmed(request, 1, reader).items == ("item-3",)


def test_requests_are_of_the_exact_length_and_the_longest_fill_up(dataset: Dataset, reader: RequestReader) -> None:
    # histories [1, 2, 3, 4], [1, 2, 6], [1, 9, 11]: full lengths 10, 8 and 9; cut to 9: 8, 8 and 9
    bundle = bundle_of(dataset)
    two = fixed_length(Task.SEQUENTIAL, dataset, bundle, 9, 2, 0, reader)
    assert reader.lengths(two.requests).tolist() == [9, 8] and two.exact == 1
    assert two.requests[0].user == "bob"
    three = fixed_length(Task.SEQUENTIAL, dataset, bundle, 8, 3, 0, reader)
    assert reader.lengths(three.requests).tolist() == [8, 8, 7] and three.exact == 2
    assert three.requests[-1] == WorkItem("bob", ("item-9", "item-11"), ("item-1",))


def test_candidates_are_never_cut(dataset: Dataset) -> None:
    bundle = bundle_of(dataset)
    reader = RequestReader(bundle, Task.TOPN)
    found = fixed_length(Task.TOPN, dataset, bundle, 12, 3, 0, reader)
    assert all(len(request.items) == 4 for request in found.requests)
    assert set(reader.lengths(found.requests).tolist()) <= {10, 11, 12}


def test_a_length_that_nothing_has_is_refused_with_those_there_are(dataset: Dataset, reader: RequestReader) -> None:
    with pytest.raises(ConfigError, match=r"no sequential input has 98 to 100 tokens: they have 8 to 10; choose"):
        fixed_length(Task.SEQUENTIAL, dataset, bundle_of(dataset), 100, 1, 0, reader)


def test_parts_of_a_task_lie_one_behind_another(dataset: Dataset) -> None:
    options = BenchOptions(source_length=8, speed_users=2, accuracy_users=1, stream_users=3, stream_batch=2)
    plan = plan_task(Task.SEQUENTIAL, dataset, bundle_of(dataset), options)
    assert plan.scored is not None and plan.timed is not None and plan.streamed is not None
    assert len(plan.requests) == 1 + 2 + 3
    assert (len(plan.scored), plan.timed.first_row, plan.streamed.first_row) == (1, 1, 3)
    assert plan.timed.source_tokens.tolist() == [8, 8] and plan.notes == ()
    assert [request.user for request in plan.requests[3:]] == ["carol", "alice", "bob"]  # as the dataset numbers them
    cell = plan.streamed
    assert (cell.users, cell.first_row, cell.decoding_steps, cell.batch_size) == (3, 3, 4, 2)
    assert np.array_equal(cell.source_tokens, [10, 8, 9])


def test_too_few_of_the_exact_length_is_said(dataset: Dataset) -> None:
    plan = plan_task(
        Task.SEQUENTIAL, dataset, bundle_of(dataset), BenchOptions(source_length=8, speed_users=64, accuracy=False)
    )
    assert plan.notes == (
        "sequential: 2 of the 3 timed inputs have exactly 8 tokens, the others up to 2 fewer; 64 users were asked for",
    )
    assert plan.scored is None and plan.streamed is None


def test_without_a_length_the_scored_users_are_timed(dataset: Dataset) -> None:
    plan = plan_task(Task.SEQUENTIAL, dataset, bundle_of(dataset), BenchOptions(speed_users=2))
    assert plan.timed is not None and plan.timed.first_row == 0 and len(plan.timed.source_tokens) == 2
    assert len(plan.requests) == 3
