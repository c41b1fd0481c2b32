"""The process that ``podx bench-service`` measures: ``python -m podx_bench.service_worker PLAN``.

PLAN is a JSON file with the bundle, the file of requests and the options. Each line on stdout that starts with
:data:`MARK` is a JSON object: ``{"doing": text}``, ``{"record": …}``, ``{"check": …}`` or
``{"error": name of its class, "message": …}``. Nothing but the runtime is loaded here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import podx
from podx.decoding.options import ItemSearchOptions
from podx.errors import PodxError, RequestTimeoutError
from podx.graphs.session import Device
from podx.requests.types import Recommendations
from podx.text.templates import Task
from podx_bench.service import BATCHER, DIRECT, FULL_BATCHES, CheckRecord, ServiceOptions, ServiceRecord
from podx_bench.workload.work import Work

MARK = "podx-service "
CHECK_CLIENTS = 64
REQUEST_TIMEOUT_S = 600.0
"""A request without an answer by then is lost."""
PERCENTILES = (50, 95, 99)
MILLISECONDS = 1e3

Answer = Recommendations
Request = podx.RecommendRequest | podx.RankRequest
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Turn:
    """What one turn took. ``ms``: of each question, or of each batch; ``calls``: of the model."""

    ms: tuple[float, ...]
    seconds: float
    requests: int
    calls: int

    @property
    def users_per_s(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


class Asker:
    """The recommender with the requests it is asked; requests are numbered from 0 and begin again after the last."""

    def __init__(self, recommender: podx.Recommender, requests: Sequence[Request], options: ServiceOptions) -> None:
        self.recommender, self.options = recommender, options
        self._requests = requests
        self._search = ItemSearchOptions(beams=options.beams)

    def __len__(self) -> int:
        return len(self._requests)

    def batch(self, numbers: Sequence[int]) -> list[Answer]:
        """One call for all."""
        asked = [self._requests[number % len(self)] for number in numbers]
        k, size = self.options.k, len(numbers)
        if self.options.task is Task.TOPN:
            ranked = [one for one in asked if isinstance(one, podx.RankRequest)]
            return self.recommender.rank_batch(ranked, k, self._search, size)
        wanted = [one for one in asked if isinstance(one, podx.RecommendRequest)]
        return self.recommender.recommend_batch(wanted, k, search=self._search, batch_size=size)

    def direct(self, number: int) -> Answer:
        """A call of its own."""
        return self.batch([number])[0]

    def through(self, batcher: podx.Batcher) -> Callable[[int], Answer]:
        """A question to a batcher."""

        def ask(number: int) -> Answer:
            future = batcher.submit(self._requests[number % len(self)], self.options.k, search=self._search)
            try:
                return future.result(REQUEST_TIMEOUT_S)
            except TimeoutError:
                raise RequestTimeoutError(
                    f"no answer within {REQUEST_TIMEOUT_S:.0f} s: ask with fewer clients"
                ) from None

        return ask

    def batcher(self, clients: int) -> podx.Batcher:
        """One that lets all clients wait."""
        options = self.options
        return podx.Batcher(self.recommender, options.max_batch, options.max_wait_ms, max_pending=clients)


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
        taken = [ms for one in running for ms in one.result()]
        return tuple(taken), time.perf_counter() - start


def take_turn(asker: Asker, mode: str, clients: int) -> Turn:
    """One way of asking, once through the requests of a turn."""
    options = asker.options
    if mode == FULL_BATCHES:
        calls = -(-options.requests // options.max_batch)
        blocks = [range(first * options.max_batch, (first + 1) * options.max_batch) for first in range(calls)]
        ms, seconds = closed_loop(lambda number: asker.batch(blocks[number]), calls, 1)
        return Turn(ms, seconds, calls * options.max_batch, calls)
    if mode == DIRECT:
        ms, seconds = closed_loop(asker.direct, options.requests, clients)
        return Turn(ms, seconds, options.requests, options.requests)
    with asker.batcher(clients) as batcher:
        ms, seconds = closed_loop(asker.through(batcher), options.requests, clients)
        return Turn(ms, seconds, options.requests, batcher.stats.batches)


def record_of(mode: str, clients: int, turns: Sequence[Turn], yardstick: Sequence[Turn] | None) -> ServiceRecord:
    """The figures of some turns, and of the yardstick's turns beside them."""
    ms = [one for turn in turns for one in turn.ms]
    p50, p95, p99 = (float(value) for value in np.percentile(ms, PERCENTILES))
    requests = sum(turn.requests for turn in turns)
    ratio = None
    if yardstick is not None:
        pairs = zip(turns, yardstick, strict=True)
        ratio = float(np.median([turn.users_per_s / beside.users_per_s for turn, beside in pairs]))
    return ServiceRecord(
        mode=mode,
        clients=clients,
        requests=requests,
        rounds=len(turns),
        users_per_s=requests / sum(turn.seconds for turn in turns),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_batch=requests / sum(turn.calls for turn in turns),
        ratio=ratio,
    )


def measure(asker: Asker, tell: Tell) -> None:
    """Tell a record for every number of clients and way of asking, and at the end one of all full batches."""
    options = asker.options
    modes = [FULL_BATCHES, BATCHER, *([DIRECT] if options.direct else [])]
    all_full: list[Turn] = []
    asker.batch(range(options.max_batch))  # nothing is left to be loaded later
    for clients in options.clients:
        turns: dict[str, list[Turn]] = {mode: [] for mode in modes}
        for number, mode in itertools.product(range(options.rounds), modes):
            tell({"doing": f"{clients} clients, {mode}, round {number + 1} of {options.rounds}"})
            turns[mode].append(take_turn(asker, mode, clients))
        for mode in modes[1:]:
            tell({"record": record_of(mode, clients, turns[mode], turns[FULL_BATCHES]).as_json()})
        all_full += turns[FULL_BATCHES]
    tell({"record": record_of(FULL_BATCHES, 1, all_full, None).as_json()})


def same_scores(right: Answer, given: Answer, tolerance: float) -> bool:
    """Whether the scores are the same at every place, but for rounding."""
    if len(right) != len(given):
        return False
    return all(abs(a.score - b.score) <= tolerance for a, b in zip(right, given, strict=True))


def verify(asker: Asker, tell: Tell) -> CheckRecord:
    """Push ``options.check`` requests through a batcher and compare every answer with the right one."""
    options = asker.options
    count, size = min(len(asker), options.check), options.max_batch
    right: list[Answer] = []
    for first in range(0, count, size):
        tell({"doing": f"check: {first} of {count} answers by direct calls"})
        right += asker.batch(range(first, min(first + size, count)))
    given: dict[int, Answer] = {}
    with asker.batcher(CHECK_CLIENTS) as batcher:
        ask = asker.through(batcher)

        def keep(number: int) -> None:
            with contextlib.suppress(RequestTimeoutError):  # it counts as lost
                given[number] = ask(number % count)
            if len(given) % (size * CHECK_CLIENTS) == 0:
                tell({"doing": f"check: {len(given)} of {options.check} answers through the batcher"})

        _, seconds = closed_loop(keep, options.check, CHECK_CLIENTS)
    pairs = [(right[number % count], answer) for number, answer in given.items()]
    alike = [pair for pair in pairs if same_scores(*pair, options.tolerance)]
    rounded = [pair for pair in alike if [one.item for one in pair[0]] != [one.item for one in pair[1]]]
    return CheckRecord(
        requests=options.check,
        clients=CHECK_CLIENTS,
        distinct=len({tuple(answer) for answer in right}),
        lost=options.check - len(given),
        wrong=len(pairs) - len(alike),
        rounded=len(rounded),
        seconds=seconds,
    )


def _requests(work: Work, task: Task) -> list[Request]:
    if task is Task.TOPN:
        return [podx.RankRequest(one.user, one.items) for one in (work[row] for row in range(len(work)))]
    return [podx.RecommendRequest(one.user, one.items, one.exclude) for one in (work[row] for row in range(len(work)))]


def main(plan: Path) -> None:
    """Do what the plan says."""
    lock = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with lock:
            print(MARK + json.dumps(message), flush=True)

    content = json.loads(plan.read_text(encoding="utf-8"))
    options = ServiceOptions.from_json(content["options"])
    try:
        tell({"doing": "load"})
        recommender = podx.load(content["bundle"], cast(Device, options.device), threads=options.thread_count)
        asker = Asker(recommender, _requests(Work(Path(content["work"])), options.task), options)
        measure(asker, tell)
        if options.check:
            tell({"check": asdict(verify(asker, tell))})
    except PodxError as error:
        tell({"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
