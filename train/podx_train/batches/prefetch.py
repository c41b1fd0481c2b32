"""Building the next batches in a background thread while the device works on the present one.

A batch is a function of (seed, epoch, position), so who builds it, and when, changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Self

import torch

from podx_train.batches.batching import Built

AHEAD = 2
"""Batches that are ready or being built while the device works."""


@dataclass(frozen=True)
class Ready:
    """A batch, how long building it took, and how long of that its taker had to wait."""

    built: Built
    building_seconds: float
    waiting_seconds: float


def batches_ahead(device: torch.device) -> int:
    """How many batches to build ahead: none on a CPU, whose cores the model needs itself."""
    return 0 if device.type == "cpu" else AHEAD


class BatchFeed:
    """Batches of consecutive positions, built up to ``ahead`` of their turn.

    As a context manager; leaving it ends the thread, whatever the reason: what is being built is finished, nothing more
    is begun.

    Args:
        build: makes the batch of a position; called in one thread at a time, in order.
        first, end: the positions are first … end - 1.
        ahead: 0: a batch is built when it is taken, in the taker's thread.
    """

    def __init__(self, build: Callable[[int], Built], first: int, end: int, ahead: int) -> None:
        self._build, self._ahead = build, ahead
        self._positions = iter(range(first, end))
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="podx-batches")
        self._coming: deque[Callable[[], tuple[Built, float]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def take(self) -> Ready:
        """The next batch.

        Raises:
            Exception: whatever building it raised.
            IndexError: there are no more.
        """
        started = time.perf_counter()
        self._begin(max(1, self._ahead))
        if not self._coming:
            raise IndexError("all batches have been taken")
        built, seconds = self._coming.popleft()()
        waited = time.perf_counter() - started if self._ahead else seconds
        self._begin(self._ahead)
        return Ready(built, seconds, waited)

    def _begin(self, wanted: int) -> None:
        """See to it that so many batches are coming, if there are as many."""
        for position in islice(self._positions, wanted - len(self._coming)):
            timed = partial(self._timed, position)
            self._coming.append(self._worker.submit(timed).result if self._ahead else timed)

    def _timed(self, position: int) -> tuple[Built, float]:
        started = time.perf_counter()
        built = self._build(position)
        return built, time.perf_counter() - started
