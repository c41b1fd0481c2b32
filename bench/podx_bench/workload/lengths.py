"""How many tokens an engine's encoder reads, and requests that are all of one length.

All engines word a request with the same template and tokeniser, so a length holds for every one of them. It counts the
text with its end of sequence, not the prompt vectors that a model puts before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.workload.scenarios import build_workload
from podx_bench.workload.work import WorkItem
from podx_train.data.dataset import Dataset

SLACK_TOKENS = 2
"""How much shorter than asked an input may be where too few have the exact length."""


class LengthMeter:
    """Counts the source tokens of requests, with the tokeniser and item texts of a bundle."""

    def __init__(self, bundle: Bundle, task: Task) -> None:
        self._encoder = bundle.input_encoder()
        self._bundle, self._task = bundle, task

    def of(self, request: WorkItem) -> int:
        """Tokens of one request, end of sequence included."""
        user = self._bundle.users.ids.number(request.user) or 0
        items = [self._bundle.catalog.items.number(raw) or 0 for raw in request.items]
        return len(self._encoder.encode(self._task, user, items))

    def all(self, requests: Sequence[WorkItem]) -> npt.NDArray[np.int64]:
        """Tokens of each request, int64 [requests]."""
        return np.array([self.of(request) for request in requests], dtype=np.int64)


class FixedLength(NamedTuple):
    """Requests of one length. ``exact``: how many have just that length; the others are up to two tokens shorter."""

    requests: tuple[WorkItem, ...]
    exact: int


def trimmed(request: WorkItem, length: int, meter: LengthMeter) -> WorkItem:
    """A sequential request with the longest end of its history that fits into ``length`` tokens, at least one item.

    What is cut off must not come back either, so it joins ``exclude``.
    """

    def tokens(kept: int) -> int:
        return meter.of(WorkItem(request.user, request.items[-kept:]))

    kept = max(1, bisect_right(range(1, len(request.items) + 1), length, key=tokens))
    return WorkItem(request.user, request.items[-kept:], exclude=(*request.exclude, *request.items[:-kept]))


def fixed_length(
    task: Task, dataset: Dataset, bundle: Bundle, length: int, count: int, seed: int, meter: LengthMeter
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
        cut = trimmed(request, length, meter) if task is Task.SEQUENTIAL else request
        by_length.setdefault(meter.of(cut), []).append(cut)
        if len(by_length.get(length, ())) == count:
            break
    chosen = [cut for short in range(SLACK_TOKENS + 1) for cut in by_length.get(length - short, ())][:count]
    if not chosen:
        raise ConfigError(
            f"no {task} input has {length - SLACK_TOKENS} to {length} tokens: they have {min(by_length)} to "
            f"{max(by_length)}; choose --source-length among these, and give each task a run of its own"
        )
    return FixedLength(tuple(chosen), min(len(by_length.get(length, ())), count))
