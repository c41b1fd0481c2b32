"""The measured process: clients that ask one recommender, and the check of every answer."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import podx
from podx.decoding.options import ItemSearchOptions
from podx.graphs.session import Device
from podx.text.templates import Task
from podx_bench.engines.runtime import rank_requests, recommend_requests
from podx_bench.harness.child import tell
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, CheckRecord, ServingOptions, ServingRecord
from podx_bench.workload.work import Work

MILLISECONDS = 1e3
REQUEST_TIMEOUT_S = 600.0
CHECK_CLIENTS = 64
TOLERANCE = 1e-4
"""Difference of scores that the check takes for rounding."""

Request = podx.RecommendRequest | podx.RankRequest
Answer = list[podx.Recommendation]


@dataclass(frozen=True)
class Turn:
    """One way of asking, once through all requests. ``ms``: of each question; ``calls``: of the model."""

    ms: tuple[float, ...]
    seconds: float
    requests: int
    calls: int


def load(bundle: Path, work: Path, options: ServingOptions) -> Bench:
    """A bench of a bundle on the requests of a file."""
    stored = Work(work)
    asked = [stored[row] for row in range(len(stored))]
    requests = rank_requests(asked) if options.task is Task.TOPN else recommend_requests(asked)
    return Bench(podx.load(bundle, cast(Device, options.device), threads=options.threads), requests, options)


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
        ranks = self._options.task is Task.TOPN
        answer = self._recommender.rank_batch if ranks else self._recommender.recommend_batch
        return cast(list[Answer], answer(asked, self._options.k, search=self._search, batch_size=len(asked)))

    def _through(self, batcher: podx.Batcher, number: int) -> Answer:
        """A question to a batcher."""
        request = self._requests[number % len(self._requests)]
        return batcher.submit(request, self._options.k, search=self._search).result(REQUEST_TIMEOUT_S)

    def _batcher(self, clients: int) -> podx.Batcher:
        """A batcher that lets all clients wait."""
        options = self._options
        return podx.Batcher(self._recommender, options.max_batch, options.max_wait_ms, max_pending=clients)

    def take_turn(self, mode: str, clients: int) -> Turn:
        """One way of asking, once through the requests of a turn."""
        requests, size = self._options.requests, self._options.max_batch
        if mode == FULL_BATCHES:
            calls = -(-requests // size)
            timed = closed_loop(lambda n: self.batch(range(n * size, (n + 1) * size)), calls, 1)
            return Turn(*timed, calls * size, calls)
        if mode == DIRECT:
            return Turn(*closed_loop(lambda number: self.batch([number]), requests, clients), requests, requests)
        with self._batcher(clients) as batcher:
            timed = closed_loop(lambda number: self._through(batcher, number), requests, clients)
            return Turn(*timed, requests, batcher.stats.batches)

    def measure(self, clients: int) -> list[ServingRecord]:
        """A record of every way of asking but full batches, by so many clients."""
        rounds = self._options.rounds
        turns: dict[str, list[Turn]] = {FULL_BATCHES: [], BATCHER: [], DIRECT: []}
        for number, mode in itertools.product(range(rounds), turns):
            tell(f"{clients} clients, {mode}, round {number + 1} of {rounds}")
            turns[mode].append(self.take_turn(mode, clients))
        self._full += turns[FULL_BATCHES]
        return [record_of(mode, clients, turns[mode], turns[FULL_BATCHES]) for mode in (BATCHER, DIRECT)]

    def yardstick(self) -> ServingRecord:
        """The record of all full batches so far."""
        return record_of(FULL_BATCHES, 1, self._full, None)

    def verify(self) -> CheckRecord:
        """Push ``options.check`` requests through a batcher and compare every answer with the right one."""
        asked, size = self._options.check, self._options.max_batch
        count = min(len(self._requests), asked)
        tell(f"check: {count} answers by direct calls")
        batches = [self.batch(range(first, min(first + size, count))) for first in range(0, count, size)]
        right, given = list(itertools.chain(*batches)), dict[int, Answer]()
        tell(f"check: {asked} answers through the batcher")
        with self._batcher(CHECK_CLIENTS) as batcher:

            def keep(number: int) -> None:
                with contextlib.suppress(TimeoutError):  # it counts as lost
                    given[number] = self._through(batcher, number % count)

            closed_loop(keep, asked, CHECK_CLIENTS)
        pairs = [(right[number % count], answer) for number, answer in given.items()]
        alike = [pair for pair in pairs if same_scores(*pair, TOLERANCE)]
        return CheckRecord(
            requests=asked,
            clients=CHECK_CLIENTS,
            distinct=len({tuple(answer) for answer in right}),
            lost=asked - len(given),
            wrong=len(pairs) - len(alike),
            rounded=sum([a.item for a in expected] != [a.item for a in answer] for expected, answer in alike),
        )


def closed_loop(ask: Callable[[int], Any], requests: int, clients: int) -> tuple[tuple[float, ...], float]:
    """Let ``clients`` threads ask questions 0 … requests-1, each its next one when it has an answer.

    Returns:
        milliseconds of each question, and the seconds from the first question to the last answer.
    """

    def timed(number: int) -> float:
        start = time.perf_counter()
        ask(number)
        return (time.perf_counter() - start) * MILLISECONDS

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        ms = tuple(pool.map(timed, range(requests)))
        return ms, time.perf_counter() - start


def record_of(mode: str, clients: int, turns: Sequence[Turn], yardstick: Sequence[Turn] | None) -> ServingRecord:
    """The figures of some turns, and of the yardstick's turns beside them."""
    ratio = None
    if yardstick is not None:
        rates, others = ([turn.requests / turn.seconds for turn in each] for each in (turns, yardstick))
        ratio = float(np.median(np.divide(rates, others)))
    requests = sum(turn.requests for turn in turns)
    p50, p95, p99 = np.percentile([ms for turn in turns for ms in turn.ms], (50, 95, 99)).tolist()
    rate, calls = requests / sum(turn.seconds for turn in turns), sum(turn.calls for turn in turns)
    return ServingRecord(mode, clients, requests, len(turns), rate, p50, p95, p99, requests / calls, ratio)


def same_scores(right: Answer, given: Answer, tolerance: float) -> bool:
    """Whether the scores are the same at every place, but for rounding."""
    if len(right) != len(given):
        return False
    return all(abs(a.score - b.score) <= tolerance for a, b in zip(right, given, strict=True))
