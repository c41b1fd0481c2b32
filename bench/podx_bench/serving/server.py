"""The measured process: clients that ask one recommender, and the check of every answer."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import podx
from podx.decoding.options import ItemSearchOptions
from podx.errors import RequestTimeoutError
from podx.graphs.session import Device
from podx.text.templates import Task
from podx_bench.engines.runtime import rank_requests, recommend_requests
from podx_bench.harness.worker import tell
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, CheckRecord, ServingOptions, ServingRecord
from podx_bench.workload.work import Work

MILLISECONDS = 1e3
PERCENTILES = (50, 95, 99)
REQUEST_TIMEOUT_S = 600.0
CHECK_CLIENTS = 64

Request = podx.RecommendRequest | podx.RankRequest
Answer = list[podx.Recommendation]


@dataclass(frozen=True)
class Turn:
    """One way of asking, once through all requests. ``ms``: of each question; ``calls``: of the model."""

    ms: tuple[float, ...]
    seconds: float
    requests: int
    calls: int

    @property
    def users_per_s(self) -> float:
        """Requests over the time of the turn."""
        return self.requests / self.seconds


def load(bundle: Path, work: Path, options: ServingOptions) -> Bench:
    """A bench of a bundle on the requests of a file."""
    stored = Work(work)
    asked = [stored[row] for row in range(len(stored))]
    requests = rank_requests(asked) if options.task is Task.TOPN else recommend_requests(asked)
    recommender = podx.load(bundle, cast(Device, options.device), threads=options.thread_count)
    return Bench(recommender, requests, options)


class Bench:
    """Asks a recommender in every way. Question ``n`` is request ``n`` modulo their number."""

    def __init__(self, recommender: podx.Recommender, requests: Sequence[Request], options: ServingOptions) -> None:
        self._recommender, self._requests, self._options = recommender, requests, options
        self._search = ItemSearchOptions(beams=options.beams)
        self._full: list[Turn] = []
        self.batch(range(options.max_batch))  # nothing is left to be loaded later

    def batch(self, numbers: Sequence[int]) -> list[Answer]:
        """One call for all."""
        asked: list[Any] = [self._requests[number % len(self._requests)] for number in numbers]
        k, size = self._options.k, len(numbers)
        if self._options.task is Task.TOPN:
            return cast(list[Answer], self._recommender.rank_batch(asked, k, self._search, size))
        return cast(list[Answer], self._recommender.recommend_batch(asked, k, search=self._search, batch_size=size))

    def _through(self, batcher: podx.Batcher, number: int) -> Answer:
        """A question to a batcher."""
        request = self._requests[number % len(self._requests)]
        try:
            return batcher.submit(request, self._options.k, search=self._search).result(REQUEST_TIMEOUT_S)
        except TimeoutError:
            raise RequestTimeoutError(f"no answer within {REQUEST_TIMEOUT_S:.0f} s: ask with fewer clients") from None

    def _batcher(self, clients: int) -> podx.Batcher:
        """One that lets all clients wait."""
        options = self._options
        return podx.Batcher(self._recommender, options.max_batch, options.max_wait_ms, max_pending=clients)

    def take_turn(self, mode: str, clients: int) -> Turn:
        """One way of asking, once through the requests of a turn."""
        requests, size = self._options.requests, self._options.max_batch
        if mode == FULL_BATCHES:
            calls = -(-requests // size)
            ms, seconds = closed_loop(lambda n: self.batch(range(n * size, (n + 1) * size)), calls, 1)
            return Turn(ms, seconds, calls * size, calls)
        if mode == DIRECT:
            ms, seconds = closed_loop(lambda number: self.batch([number]), requests, clients)
            return Turn(ms, seconds, requests, requests)
        with self._batcher(clients) as batcher:
            ms, seconds = closed_loop(lambda number: self._through(batcher, number), requests, clients)
            return Turn(ms, seconds, requests, batcher.stats.batches)

    def measure(self, clients: int) -> list[ServingRecord]:
        """A record of every way of asking but full batches, by so many clients."""
        rounds = self._options.rounds
        modes = [FULL_BATCHES, BATCHER, *([DIRECT] if self._options.direct else [])]
        turns: dict[str, list[Turn]] = {mode: [] for mode in modes}
        for number, mode in itertools.product(range(rounds), modes):
            tell(f"{clients} clients, {mode}, round {number + 1} of {rounds}")
            turns[mode].append(self.take_turn(mode, clients))
        self._full += turns[FULL_BATCHES]
        return [record_of(mode, clients, turns[mode], turns[FULL_BATCHES]) for mode in modes[1:]]

    def yardstick(self) -> ServingRecord:
        """The record of all full batches so far."""
        return record_of(FULL_BATCHES, 1, self._full, None)

    def verify(self) -> CheckRecord:
        """Push ``options.check`` requests through a batcher and compare every answer with the right one."""
        asked, size = self._options.check, self._options.max_batch
        count = min(len(self._requests), asked)
        right: list[Answer] = []
        for first in range(0, count, size):
            tell(f"check: {first} of {count} answers by direct calls")
            right += self.batch(range(first, min(first + size, count)))
        given: dict[int, Answer] = {}
        with self._batcher(CHECK_CLIENTS) as batcher:

            def keep(number: int) -> None:
                with contextlib.suppress(RequestTimeoutError):  # it counts as lost
                    given[number] = self._through(batcher, number % count)
                if len(given) % (size * CHECK_CLIENTS) == 0:
                    tell(f"check: {len(given)} of {asked} answers through the batcher")

            _, seconds = closed_loop(keep, asked, CHECK_CLIENTS)
        pairs = [(right[number % count], answer) for number, answer in given.items()]
        alike = [pair for pair in pairs if same_scores(*pair, self._options.tolerance)]
        rounded = [pair for pair in alike if [a.item for a in pair[0]] != [b.item for b in pair[1]]]
        return CheckRecord(
            requests=asked,
            clients=CHECK_CLIENTS,
            distinct=len({tuple(answer) for answer in right}),
            lost=asked - len(given),
            wrong=len(pairs) - len(alike),
            rounded=len(rounded),
            seconds=seconds,
        )


def closed_loop(ask: Callable[[int], Any], requests: int, clients: int) -> tuple[tuple[float, ...], float]:
    """Let ``clients`` threads ask questions 0 … requests-1, each its next one when it has an answer.

    Returns:
        milliseconds of each question, and the seconds from the first question to the last answer.
    """
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(requests):
        numbers.put(number)
    start_line = threading.Barrier(clients + 1)

    def client(_: int) -> list[float]:
        start_line.wait()
        taken: list[float] = []
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return taken
            start = time.perf_counter()
            ask(number)
            taken.append((time.perf_counter() - start) * MILLISECONDS)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        start_line.wait()
        start = time.perf_counter()
        taken = [ms for future in running for ms in future.result()]
        return tuple(taken), time.perf_counter() - start


def record_of(mode: str, clients: int, turns: Sequence[Turn], yardstick: Sequence[Turn] | None) -> ServingRecord:
    """The figures of some turns, and of the yardstick's turns beside them."""
    ratio = None
    if yardstick is not None:
        pairs = zip(turns, yardstick, strict=True)
        ratio = float(np.median([turn.users_per_s / beside.users_per_s for turn, beside in pairs]))
    requests = sum(turn.requests for turn in turns)
    p50, p95, p99 = (float(value) for value in np.percentile([ms for turn in turns for ms in turn.ms], PERCENTILES))
    rate, calls = requests / sum(turn.seconds for turn in turns), sum(turn.calls for turn in turns)
    return ServingRecord(mode, clients, requests, len(turns), rate, p50, p95, p99, requests / calls, ratio)


def same_scores(right: Answer, given: Answer, tolerance: float) -> bool:
    """Whether the scores are the same at every place, but for rounding."""
    if len(right) != len(given):
        return False
    return all(abs(a.score - b.score) <= tolerance for a, b in zip(right, given, strict=True))
