"""A whole part of the split as a user would run it: all requests in one call, each engine free to order them.

podx sorts them by length; the eager engines take them as the file has them and pad each batch to its longest. One
engine is up at a time, and a pass is timed from raw ids to raw ids.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from podx_bench.engines.process import EngineProcess, Timing
from podx_bench.harness.child import Tell
from podx_bench.harness.records import StreamRecord
from podx_bench.latency.speed import MILLISECONDS, SETTLE_S, Cell, Expired, timed_facts, warm_up

PASS_TIMEOUT_S = 4 * 3600.0
"""A pass of 2,048 users takes the slowest engines most of an hour on two cores."""
HEARTBEAT_S = 30.0

Start = Callable[[str], AbstractContextManager[EngineProcess]]
"""Starts the process of an engine."""


def measure_stream(
    cell: Cell, names: Sequence[str], start: Start, rounds: int, expired: Expired, tell: Tell
) -> Iterator[list[StreamRecord]]:
    """Let every engine go through all requests of a cell, ``rounds`` times in turn.

    Args:
        cell: ``batch_size`` is how many requests an engine runs at a time.
        start: starts an engine's process; it is ended before the next engine's starts.

    Yields:
        after every pass the records of all passes so far. Where the time is over, no pass is begun.
    """
    rows = [cell.first_row + row for row in range(cell.users)]
    done: dict[str, list[Timing]] = {}
    for number in range(rounds):
        for name in names:
            if expired():
                return
            what = f"{cell.task}: {cell.users:,} users in one call to {name}, round {number + 1} of {rounds}"
            tell(what)
            with start(name) as process, heartbeat(what, tell):
                warm_up(process, rows[: cell.batch_size])
                time.sleep(SETTLE_S)
                done.setdefault(name, []).append(process.time([rows]))
            yield [_record(cell, engine, done) for engine in done]


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


def _record(cell: Cell, name: str, done: Mapping[str, Sequence[Timing]]) -> StreamRecord:
    passes = tuple(sum(timing.ms) / MILLISECONDS for timing in done[name])
    median = float(np.median(passes))
    return StreamRecord(
        **timed_facts(cell, name, done, range(cell.users)),
        users=cell.users,
        seconds=median,
        users_per_s=cell.users / median,
        round_s=passes,
    )
