"""From a dataset's test split to the requests of each task, with what is known to be right.

Users are taken in a seeded order over their *raw* ids, so the same people are asked about under every ID scheme, and a
run on fewer users takes the first of the same order: engines measured on different numbers of users share the smaller
set.

Engines word a request with the same template and tokeniser, so a length in tokens holds for every one of them. It
counts the text with its end of sequence, not the prompt vectors that a model puts before it.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError, DataError
from podx.text.templates import ALL_TASKS, Task
from podx.text.tokenizer import Tokenizer
from podx_bench.workload.work import RequestReader, WorkItem
from podx_train.batches.samplers import evaluation_topn
from podx_train.data.dataset import Dataset
from podx_train.data.explanations import EXPLANATION_TOKENS
from podx_train.data.folder import ExplanationRecord

TEST: Final = "test"
SLACK_TOKENS = 2
"""How much shorter than asked an input may be where too few have the exact length."""


@dataclass(frozen=True)
class Workload:
    """The test records of a task, in the order in which they are used.

    Attributes:
        requests: what engines are asked.
        users: user number of each request, int64 [requests].
        targets: held-out item of each request, by number; for explanations the item explained.
        candidates: item numbers of each request's candidates; empty but for top-N.
        references: the held-out sentence of each request; empty but for explanations.
    """

    task: Task
    requests: tuple[WorkItem, ...]
    users: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    candidates: tuple[npt.NDArray[np.int64], ...] = ()
    references: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.requests)

    def head(self, count: int | None) -> Workload:
        """The first requests; None: all."""
        parts = (self.requests, self.users, self.targets, self.candidates, self.references)
        return Workload(self.task, *(part[:count] for part in parts))  # type: ignore[arg-type]


def user_order(dataset: Dataset, seed: int) -> npt.NDArray[np.int64]:
    """User numbers in an order that depends on the raw ids and the seed alone, int64 [users]."""
    by_raw_id = np.argsort(np.array(dataset.user_ids)) + 1
    return np.random.default_rng(seed).permutation(by_raw_id).astype(np.int64)


def choose_tasks(bundle: Bundle, dataset: Dataset, asked: tuple[Task, ...] | None) -> tuple[Task, ...]:
    """The tasks to run: those asked for, or all that bundle and dataset have.

    Raises:
        ConfigError: a task asked for is not in the bundle.
        DataError: the dataset has no test explanations, and they were asked for.
    """
    known = bundle.manifest.answered
    has_explanations = bool(dataset.explanations[TEST])
    if asked is None:
        return tuple(t for t in ALL_TASKS if t in known and (t is not Task.EXPLANATION or has_explanations))
    missing = [task for task in asked if task not in known]
    if missing:
        raise ConfigError(
            f"--tasks names {', '.join(missing)}, but the bundle was trained for {', '.join(known)} only: "
            f"leave it out, or train and export a model with it"
        )
    if Task.EXPLANATION in asked and not has_explanations:
        raise DataError(
            "the dataset has no test explanations: leave explanation out of --tasks, or prepare the data with reviews"
        )
    return asked


def build_workload(
    task: Task, dataset: Dataset, bundle: Bundle, count: int | None, seed: int, file_order: bool = False
) -> Workload:
    """Requests for the first ``count`` test users of a task (explanations: test records); None: for all.

    Users come in the seeded order, or as the dataset numbers them.
    """
    if task is Task.EXPLANATION:
        return _explanations(dataset, bundle.tokenizer, count, None if file_order else seed)
    users = (np.arange(1, dataset.user_count + 1) if file_order else user_order(dataset, seed))[:count]
    return ranking_workload(task, dataset, users, bundle.manifest.max_history, bundle.manifest.one_pass)


def ranking_workload(
    task: Task, dataset: Dataset, users: npt.NDArray[np.int64], max_history: int = sys.maxsize, by_history: bool = False
) -> Workload:
    """Requests for these users of a ranking task.

    Args:
        max_history: longer histories keep their newest items.
        by_history: candidates come with the history, by which one-pass models rank them.
    """
    targets = np.array([dataset.test_item(user) for user in users.tolist()], dtype=np.int64)
    names = [dataset.user_ids[user - 1] for user in users.tolist()]
    histories = [_raw(dataset, dataset.history(user, TEST)) for user in users.tolist()]
    candidates: tuple[npt.NDArray[np.int64], ...] = ()
    if task is Task.TOPN:
        candidates = tuple(evaluation_topn(dataset, user, TEST) for user in users.tolist())
        read = [history[-max_history:] if by_history else None for history in histories]
        parts = zip(names, candidates, read, strict=True)
        requests = [WorkItem(name, _raw(dataset, items), history=history) for name, items, history in parts]
    else:
        requests = [
            WorkItem(name, history[-max_history:], history[:-max_history])
            for name, history in zip(names, histories, strict=True)
        ]
    return Workload(task, tuple(requests), users, targets, candidates)


def _raw(dataset: Dataset, items: npt.NDArray[np.integer]) -> tuple[str, ...]:
    return tuple(dataset.item_ids[item - 1] for item in items.tolist())


def _explanations(dataset: Dataset, tokenizer: Tokenizer, count: int | None, seed: int | None) -> Workload:
    """Test records in a seeded order, or as they lie. References are cut to the sub-words that targets are cut to."""

    def names(record: ExplanationRecord) -> tuple[str, str]:
        return dataset.user_ids[record.user - 1], dataset.item_ids[record.item - 1]

    records = dataset.explanations[TEST]
    if seed is not None:
        records = sorted(records, key=lambda record: (*names(record), record.explanation))
        records = [records[place] for place in np.random.default_rng(seed).permutation(len(records)).tolist()]
    records = records[:count]
    return Workload(
        Task.EXPLANATION,
        tuple(WorkItem(user, (item,)) for user, item in map(names, records)),
        np.array([r.user for r in records], dtype=np.int64),
        np.array([r.item for r in records], dtype=np.int64),
        references=tuple(tokenizer.decode(tokenizer.encode(r.explanation)[:EXPLANATION_TOKENS]) for r in records),
    )


class FixedLength(NamedTuple):
    """Requests of one length. ``exact``: how many have just that length; the others are up to two tokens shorter."""

    requests: tuple[WorkItem, ...]
    exact: int


def trimmed(request: WorkItem, length: int, reader: RequestReader) -> WorkItem:
    """A sequential request with the longest end of its history that fits into ``length`` tokens, at least one item.

    What is cut off must not come back either, so it joins ``exclude``.
    """

    def tokens(kept: int) -> int:
        return len(reader.encode(WorkItem(request.user, request.items[-kept:])))

    kept = max(1, bisect_right(range(1, len(request.items) + 1), length, key=tokens))
    return WorkItem(request.user, request.items[-kept:], exclude=(*request.exclude, *request.items[:-kept]))


def fixed_length(
    task: Task, dataset: Dataset, bundle: Bundle, length: int, count: int, seed: int, reader: RequestReader
) -> FixedLength:
    """The first ``count`` test requests whose input has ``length`` tokens, the users in their seeded order.

    Histories are cut at their older end to fit; candidates and explained items stay as they are. Where there are not
    enough of the exact length, requests up to :data:`SLACK_TOKENS` shorter fill up, the longest first, and where these
    do not suffice either there are fewer than ``count``.

    Raises:
        ConfigError: no request has such a length.
    """
    by_length: dict[int, list[WorkItem]] = {}
    for request in build_workload(task, dataset, bundle, None, seed).requests:
        cut = trimmed(request, length, reader) if task is Task.SEQUENTIAL else request
        by_length.setdefault(len(reader.encode(cut)), []).append(cut)
        if len(by_length.get(length, ())) == count:
            break
    chosen = [cut for short in range(SLACK_TOKENS + 1) for cut in by_length.get(length - short, ())][:count]
    if not chosen:
        raise ConfigError(
            f"no {task} input has {length - SLACK_TOKENS} to {length} tokens: they have {min(by_length)} to "
            f"{max(by_length)}; choose --source-length among these, and give each task a run of its own"
        )
    return FixedLength(tuple(chosen), min(len(by_length.get(length, ())), count))
