"""All requests in one call, engine after engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from podx.text.templates import Task
from podx_bench.engines.process import Timing
from podx_bench.latency import speed
from podx_bench.latency.speed import Cell, heartbeat, measure_stream

TIMES = {"encode-once": 8000.0, "podx": 2000.0}
CELL = Cell(Task.SEQUENTIAL, 4, 10, 100, np.arange(10), 4)


class FakeEngines:
    """Starts processes that take a given time for a pass; remembers what happens."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.asked: list[Sequence[int]] = []
        self._name = ""

    @contextmanager
    def start(self, name: str) -> Iterator[FakeEngines]:
        self.happened.append(f"start {name}")
        self._name = name
        yield self
        self.happened.append(f"end {name}")

    def time(self, batches: Sequence[Sequence[int]]) -> Timing:
        self.asked += batches
        return Timing((TIMES[self._name],), 100.0 + len(self.asked))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SETTLE_S", 0.0)
    monkeypatch.setattr(speed, "LONG_WARM_UP_MS", 10_000.0)  # no pass of these tests is long
    assert speed.FIRST_CALLS == 2


def test_every_engine_gets_all_rows_in_one_call_after_a_warm_up() -> None:
    engines, told = FakeEngines(), list[str]()
    *_, records = measure_stream(CELL, list(TIMES), engines.start, lambda: False, told.append)  # type: ignore[arg-type]
    assert engines.happened == ["start encode-once", "end encode-once", "start podx", "end podx"]
    rows = list(range(100, 110))
    assert engines.asked == [rows[:4], rows[:4], rows] * 2
    assert told[0] == "sequential: 10 users in one call to encode-once"
    ours = {record.engine: record for record in records}["podx"]
    assert (ours.users, ours.batch_size, ours.seconds, ours.users_per_s) == (10, 4, 2.0, 5.0)
    assert (ours.ratio_vs_encode_once, ours.ratio_vs_as_published) == (4.0, None)
    assert (ours.round_s, ours.peak_rss_mb) == ((2.0,), 106.0)
    assert (ours.source_tokens_mean, ours.source_tokens_max, ours.decoding_steps) == (4.5, 9, 4)


def test_each_pass_is_kept_as_soon_as_it_is_done() -> None:
    engines = FakeEngines()
    states = list(measure_stream(CELL, list(TIMES), engines.start, lambda: False, lambda _: None))  # type: ignore[arg-type]
    assert [[(r.engine, len(r.round_s)) for r in records] for records in states] == [
        [("encode-once", 1)],
        [("encode-once", 1), ("podx", 1)],
    ]


def test_no_pass_is_begun_when_the_time_is_over() -> None:
    engines, answers = FakeEngines(), iter([False, True])
    states = list(measure_stream(CELL, list(TIMES), engines.start, lambda: next(answers), lambda _: None))  # type: ignore[arg-type]
    assert [[record.engine for record in records] for records in states] == [["encode-once"]]


def test_a_long_pass_is_heard_of_and_a_finished_one_no_more() -> None:
    told: list[str] = []
    with heartbeat("at work", told.append, every_s=0.01):
        while not told:
            time.sleep(0.005)
    count = len(told)
    time.sleep(0.03)
    assert told[0].startswith("at work, 0 s so far") and len(told) == count
