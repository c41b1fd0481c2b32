"""Latency: every engine goes through the same batches, in turns, while the other engines' processes wait.

In each round every engine is given the same few batches, one engine after another, the first one changing from round to
round. Only times of one round are divided by one another, so a machine that slows down for a while slows all engines of
that round, and the ratios stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.text.templates import Task
from podx_bench.engines import AS_PUBLISHED, ENCODE_ONCE
from podx_bench.engines.process import EngineProcess, Timing
from podx_bench.harness.records import SpeedRecord

WARM_UP_CALLS = 2
LONG_CALL_MS = 2_000.0
"""A warm-up call that takes longer is not repeated."""
SETTLE_S = 0.3
"""Pause before each turn: threads of the engine before may spin on for up to 0.2 s after its last call."""
MILLISECONDS = 1e3

Expired = Callable[[], bool]
"""Whether the time for measuring is over."""


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
    planned = plan_rounds(cell.users, cell.batch_size, rounds)
    asked = [[[cell.first_row + row for row in batch] for batch in batches] for batches in planned]
    names = list(processes)
    for name in names:
        if expired():
            return []
        warm_up(processes[name], asked[0][0])
    done: dict[str, list[Timing]] = {name: [] for name in names}
    finished = 0
    for number, batches in enumerate(asked):
        if expired():
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(SETTLE_S)
            done[name].append(processes[name].time(batches))
        finished += 1
    if not finished:
        return []
    rows = [row for batches in planned[:finished] for batch in batches for row in batch]
    return [_record(cell, name, processes[name].load_s, done, rows) for name in names]


def warm_up(process: EngineProcess, batch: Sequence[int]) -> None:
    """Let an engine run a batch, twice where that is quick."""
    for _ in range(WARM_UP_CALLS):
        if process.time([batch]).ms[0] > LONG_CALL_MS:
            return


def timed_facts(cell: Cell, name: str, done: Mapping[str, Sequence[Timing]], rows: Sequence[int]) -> dict[str, Any]:
    """Fields that records of an engine's time share, all but the throughput.

    Args:
        done: what every engine took, by round. rows: the requests timed, from 0 without ``first_row``.
    """
    totals = {engine: [sum(timing.ms) for timing in timings] for engine, timings in done.items()}
    tokens = None if cell.source_tokens is None else cell.source_tokens[np.asarray(rows)]
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
    cell: Cell, name: str, load_s: float, done: Mapping[str, Sequence[Timing]], rows: Sequence[int]
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
