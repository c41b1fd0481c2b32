"""Latency in batches and in one call.

:func:`measure_cell`: every engine goes through the same batches, in turns, while the other engines' processes wait.
In each round every engine is given the same few batches, one engine after another, the first one changing from round to
round. Only times of one round are divided by one another, so a machine that slows down for a while slows all engines of
that round, and the ratios stand.

:func:`measure_stream`: a whole part of the split as a user would run it, all requests in one call, each engine free to
order them. podx sorts them by length; the eager engines take them as the file has them and pad each batch to its
longest. One engine is up at a time, and a pass is timed from raw ids to raw ids.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.text.templates import Task
from podx_bench.engines import AS_PUBLISHED, ENCODE_ONCE
from podx_bench.engines.process import EngineProcess, Timing
from podx_bench.harness.child import Tell
from podx_bench.harness.records import SpeedRecord, StreamRecord
from podx_bench.harness.resources import MILLISECONDS

FIRST_CALLS = 2
LONG_WARM_UP_MS = 5_000.0
"""A warm-up that takes longer is not repeated."""
SETTLE_S = 0.3
"""Pause before each turn: threads of the engine before may spin on for up to 0.2 s after its last call."""
PASS_TIMEOUT_S = 4 * 3600.0
"""A pass of 2,048 users takes the slowest engines most of an hour on two cores."""
HEARTBEAT_S = 30.0

Expired = Callable[[], bool]
"""Whether the time for measuring is over."""
Start = Callable[[str], AbstractContextManager[EngineProcess]]
"""Starts the process of an engine."""


@dataclass(frozen=True)
class Cell:
    """One place of the grid.

    Attributes:
        users: so many requests are used, from ``first_row`` on.
        source_tokens: int64 [users], length of each one's input. decoding_steps: see
            :class:`podx_bench.harness.records.Timed`. None: not known.
    """

    task: Task
    batch_size: int
    users: int
    first_row: int = 0
    source_tokens: npt.NDArray[np.int64] | None = None
    decoding_steps: int | None = None


def plan_rounds(users: int, batch_size: int, rounds: int) -> list[list[list[int]]]:
    """Request numbers by round, call and place. Together the rounds go through all users; every batch is full."""
    count = max(1, users // batch_size)
    batches = [[(first * batch_size + place) % users for place in range(batch_size)] for first in range(count)]
    calls = -(-count // rounds)
    return [[batches[(number * calls + call) % count] for call in range(calls)] for number in range(rounds)]


def measure_cell(
    cell: Cell, processes: Mapping[str, EngineProcess], rounds: int, expired: Expired
) -> list[SpeedRecord]:
    """Time all engines on one task and batch size, as many rounds as the time allows; none in time: no records."""
    planned = np.array(plan_rounds(cell.users, cell.batch_size, rounds))
    asked, names = (cell.first_row + planned).tolist(), list(processes)
    for name in names:
        if expired():
            return []
        warm_up(processes[name], [batch for batches in asked for batch in batches])
    done: dict[str, list[Timing]] = {}
    for number, batches in enumerate(asked):
        if expired():
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(SETTLE_S)
            done.setdefault(name, []).append(processes[name].time(batches))
    finished = min(map(len, done.values()), default=0)
    return [_record(cell, name, processes[name].load_s, done, planned[:finished].ravel()) for name in names if done]


def warm_up(process: EngineProcess, batches: Sequence[Sequence[int]]) -> None:
    """Let an engine run the first batch, again where that is quick, and all of them where that is.

    On CUDA every size has a graph of its own, which is built when a batch first needs it.
    """
    ms = 0.0
    for _ in range(FIRST_CALLS):
        ms = process.time([batches[0]]).ms[0]
        if ms > LONG_WARM_UP_MS:
            return
    if len(batches) > 1 and ms * len(batches) <= LONG_WARM_UP_MS:
        process.time(batches)


def timed_facts(
    cell: Cell, name: str, done: Mapping[str, Sequence[Timing]], rows: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Fields that records of an engine's time share, all but the throughput.

    Args:
        done: what every engine took, by round. rows: the requests timed, from 0 without ``first_row``.
    """
    totals = {engine: [sum(timing.ms) for timing in timings] for engine, timings in done.items()}
    tokens = None if cell.source_tokens is None else cell.source_tokens[rows]
    return {
        "engine": name,
        "task": cell.task,
        "batch_size": cell.batch_size,
        "peak_rss_mb": max(timing.peak_rss_mb for timing in done[name]),
        "ratio_vs_encode_once": paired_ratio(totals.get(ENCODE_ONCE), totals[name]),
        "ratio_vs_as_published": paired_ratio(totals.get(AS_PUBLISHED), totals[name]),
        "source_tokens_mean": None if tokens is None else float(tokens.mean()),
        "source_tokens_max": None if tokens is None else int(tokens.max()),
        "decoding_steps": cell.decoding_steps,
    }


def _record(
    cell: Cell, name: str, load_s: float, done: Mapping[str, Sequence[Timing]], rows: npt.NDArray[np.int64]
) -> SpeedRecord:
    calls = np.array([ms for timing in done[name] for ms in timing.ms])
    p50, p95, p99 = np.percentile(calls, (50, 95, 99)).tolist()
    per_user = float(calls.mean()) / cell.batch_size
    return SpeedRecord(
        **timed_facts(cell, name, done, rows),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        users_per_s=MILLISECONDS / per_user,
        ms_per_user=per_user,
        load_s=load_s,
        rounds=len(done[name]),
        calls=len(calls),
        round_ms=tuple(sum(timing.ms) for timing in done[name]),
    )


def paired_ratio(baseline: Sequence[float] | None, own: Sequence[float]) -> float | None:
    """Median over rounds of baseline time ÷ own time: how many times as fast. None without the baseline.

    Where one has run fewer rounds, only the rounds of both count.
    """
    ratios = [other / mine for other, mine in zip(baseline or (), own, strict=False)]
    return float(np.median(ratios)) if ratios else None


def measure_stream(
    cell: Cell, names: Sequence[str], start: Start, expired: Expired, tell: Tell
) -> Iterator[list[StreamRecord]]:
    """Let every engine go through all requests of a cell.

    Args:
        cell: ``batch_size`` is how many requests an engine runs at a time.
        start: starts an engine's process; it is ended before the next engine's starts.

    Yields:
        after every pass the records of all passes so far. Where the time is over, no pass is begun.
    """
    rows = [cell.first_row + row for row in range(cell.users)]
    done: dict[str, list[Timing]] = {}
    for name in names:
        if expired():
            return
        what = f"{cell.task}: {cell.users:,} users in one call to {name}"
        tell(what)
        with start(name) as process, heartbeat(what, tell):
            warm_up(process, [rows[: cell.batch_size]])
            time.sleep(SETTLE_S)
            done[name] = [process.time([rows])]
        yield [_stream_record(cell, engine, done) for engine in done]


@contextmanager
def heartbeat(what: str, tell: Tell, every_s: float = HEARTBEAT_S) -> Iterator[None]:
    """While the block runs, say now and then that it does, and for how long it has."""
    over = threading.Event()
    begun = time.monotonic()

    def beat() -> None:
        while not over.wait(every_s):
            tell(f"{what}, {time.monotonic() - begun:.0f} s so far")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _stream_record(cell: Cell, name: str, done: Mapping[str, Sequence[Timing]]) -> StreamRecord:
    seconds = sum(done[name][0].ms) / MILLISECONDS
    return StreamRecord(
        **timed_facts(cell, name, done, np.arange(cell.users)),
        users=cell.users,
        seconds=seconds,
        users_per_s=cell.users / seconds,
        round_s=(seconds,),
    )
