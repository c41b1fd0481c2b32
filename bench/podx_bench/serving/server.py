"""The measured process: clients that ask one recommender."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import podx
from podx.decoding.options import ItemSearchOptions
from podx.graphs.session import Device
from podx_bench.engines.runtime import batch_method, list_requests
from podx_bench.harness.child import tell
from podx_bench.harness.resources import MILLISECONDS, timed
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, ServingOptions, ServingRecord
from podx_bench.workload.work import WorkItem

REQUEST_TIMEOUT_S = 600.0

Request = podx.RecommendRequest | podx.RankRequest


@dataclass(frozen=True)
class Turn:
    """One way of asking, once through all requests. ``ms``: of each question; ``calls``: of the model."""

    ms: tuple[float, ...]
    seconds: float
    requests: int
    calls: int


def measure(bundle: Path, asked: list[WorkItem], options: ServingOptions) -> list[ServingRecord]:
    """All records of a bundle on these requests."""
    requests = list_requests(options.task, asked)
    recommender = podx.load(bundle, cast(Device, options.device), threads=options.threads, tasks=[options.task])
    return Bench(recommender, requests, options).measure()


class Bench:
    """Asks a recommender in every way. Question ``n`` is request ``n`` modulo their number."""

    def __init__(self, recommender: podx.Recommender, requests: Sequence[Request], options: ServingOptions) -> None:
        self._recommender, self._requests, self._options = recommender, requests, options
        self._search = ItemSearchOptions(beams=options.beams)
        self.batch(range(options.max_batch))  # nothing is left to be loaded later

    def batch(self, numbers: Sequence[int]) -> None:
        """One call for all."""
        asked: list[Any] = [self._requests[number % len(self._requests)] for number in numbers]
        answer = batch_method(self._recommender, self._options.task)
        answer(asked, self._options.k, search=self._search, batch_size=len(asked))

    def take_turn(self, mode: str, clients: int) -> Turn:
        """One way of asking, once through the requests of a turn."""
        requests, size = self._options.requests, self._options.max_batch
        if mode == FULL_BATCHES:
            calls = -(-requests // size)
            timed = closed_loop(lambda n: self.batch(range(n * size, (n + 1) * size)), calls, 1)
            return Turn(*timed, calls * size, calls)
        if mode == DIRECT:
            return Turn(*closed_loop(lambda number: self.batch([number]), requests, clients), requests, requests)
        batcher = podx.Batcher(self._recommender, size, self._options.max_wait_ms, max_pending=clients)

        def ask(number: int) -> None:
            request = self._requests[number % len(self._requests)]
            batcher.submit(request, self._options.k, search=self._search).result(REQUEST_TIMEOUT_S)

        with batcher:
            return Turn(*closed_loop(ask, requests, clients), requests, batcher.stats.batches)

    def measure(self) -> list[ServingRecord]:
        """A record of every way of asking by every number of clients, and last of full batches, over all turns."""
        rounds, records, full = self._options.rounds, list[ServingRecord](), list[Turn]()
        for clients in self._options.clients:
            turns: dict[str, list[Turn]] = {FULL_BATCHES: [], BATCHER: [], DIRECT: []}
            for number, mode in itertools.product(range(rounds), turns):
                tell(f"{clients} clients, {mode}, round {number + 1} of {rounds}")
                turns[mode].append(self.take_turn(mode, clients))
            full += turns[FULL_BATCHES]
            records += [record_of(mode, clients, turns[mode], turns[FULL_BATCHES]) for mode in (BATCHER, DIRECT)]
        return [*records, record_of(FULL_BATCHES, 1, full, None)]


def closed_loop(ask: Callable[[int], Any], requests: int, clients: int) -> tuple[tuple[float, ...], float]:
    """Let ``clients`` threads ask questions 0 … requests-1, each its next one when it has an answer.

    Returns:
        milliseconds of each question, and the seconds from the first question to the last answer.
    """
    with ThreadPoolExecutor(clients) as pool:
        ms, all_ms = timed(lambda: tuple(pool.map(lambda number: timed(lambda: ask(number))[1], range(requests))))
        return ms, all_ms / MILLISECONDS


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
