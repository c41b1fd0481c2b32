"""Rounds, statistics and paired ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from podx.text.templates import Task
from podx_bench.engines.process import Timing
from podx_bench.latency import speed
from podx_bench.latency.speed import Cell, measure_cell, paired_ratio, plan_rounds

WARM_UP_TURNS = speed.FIRST_CALLS + 1
"""Of a quick engine: the first batch some times, then all of them."""


class FakeProcess:
    """Takes a given time per call; remembers who was called."""

    load_s = 2.0

    def __init__(self, name: str, ms: float, calls: list[str]) -> None:
        self.name, self.ms, self.calls = name, ms, calls
        self.timed: list[Sequence[Sequence[int]]] = []

    def time(self, batches: Sequence[Sequence[int]]) -> Timing:
        self.calls.append(self.name)
        self.timed.append(batches)
        return Timing(tuple(self.ms for _ in batches), 100.0 + len(self.timed))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SETTLE_S", 0.0)


def never() -> bool:
    return False


def test_rounds_together_go_through_all_users_in_full_batches() -> None:
    rounds = plan_rounds(users=64, batch_size=8, rounds=4)
    assert [len(batches) for batches in rounds] == [2, 2, 2, 2]
    assert sorted(row for batches in rounds for batch in batches for row in batch) == list(range(64))


@pytest.mark.parametrize(("users", "batch_size", "rounds"), [(3, 8, 2), (10, 4, 5), (1, 1, 3), (64, 32, 5)])
def test_every_round_has_work_whatever_the_numbers(users: int, batch_size: int, rounds: int) -> None:
    planned = plan_rounds(users, batch_size, rounds)
    assert len(planned) == rounds
    assert all(len(batch) == batch_size for batches in planned for batch in batches)
    assert all(batches for batches in planned)
    assert {row for batches in planned for batch in batches for row in batch} <= set(range(users))


def test_engines_take_turns_and_the_first_one_changes() -> None:
    calls: list[str] = []
    processes = {name: FakeProcess(name, 10.0, calls) for name in ("encode-once", "as-published", "podx")}
    measure_cell(Cell(Task.SEQUENTIAL, 2, 12), processes, 3, never)  # type: ignore[arg-type]
    turns = calls[3 * WARM_UP_TURNS :]
    assert turns == [
        *("encode-once", "as-published", "podx"),
        *("as-published", "podx", "encode-once"),
        *("podx", "encode-once", "as-published"),
    ]
    timed = [process.timed[WARM_UP_TURNS:] for process in processes.values()]
    assert timed[0] == timed[1] == timed[2]
    assert processes["podx"].timed[speed.FIRST_CALLS] == [batch for batches in timed[2] for batch in batches]


def test_records_have_percentiles_throughput_and_ratios() -> None:
    calls: list[str] = []
    times = {"encode-once": 40.0, "as-published": 100.0, "podx": 10.0}
    processes = {name: FakeProcess(name, ms, calls) for name, ms in times.items()}
    records = measure_cell(Cell(Task.SEQUENTIAL, 4, 16), processes, 2, never)  # type: ignore[arg-type]
    ours = {record.engine: record for record in records}["podx"]
    assert (ours.p50_ms, ours.p95_ms, ours.p99_ms) == (10.0, 10.0, 10.0)
    assert (ours.ms_per_user, ours.users_per_s) == (2.5, 400.0)
    assert (ours.ratio_vs_encode_once, ours.ratio_vs_as_published) == (4.0, 10.0)
    assert (ours.rounds, ours.calls, ours.round_ms) == (2, 4, (20.0, 20.0))
    assert (ours.load_s, ours.peak_rss_mb) == (2.0, 100.0 + WARM_UP_TURNS + 2)


def test_rows_are_counted_from_the_first_of_the_part_and_lengths_stated() -> None:
    process = FakeProcess("podx", 10.0, [])
    cell = Cell(Task.SEQUENTIAL, 2, 4, first_row=100, source_tokens=np.array([5, 6, 7, 9]), decoding_steps=4)
    (record,) = measure_cell(cell, {"podx": process}, 2, never)  # type: ignore[dict-item]
    assert sorted(row for batches in process.timed[WARM_UP_TURNS:] for batch in batches for row in batch) == [
        100,
        101,
        102,
        103,
    ]
    assert (record.source_tokens_mean, record.source_tokens_max, record.decoding_steps) == (6.75, 9, 4)
    answers = iter([False, False, True])
    (record,) = measure_cell(cell, {"podx": process}, 2, lambda: next(answers))  # type: ignore[dict-item]
    assert (record.source_tokens_mean, record.source_tokens_max) == (5.5, 6)  # of the round that was run


def test_percentiles_are_of_calls() -> None:
    class Growing(FakeProcess):
        def time(self, batches: Sequence[Sequence[int]]) -> Timing:
            self.timed.append(batches)
            return Timing(tuple(float(row) for batch in batches for row in batch), 1.0)

    (record,) = measure_cell(Cell(Task.TOPN, 1, 101), {"podx": Growing("podx", 0.0, [])}, 1, never)  # type: ignore[dict-item]
    assert (record.p50_ms, record.p95_ms, record.p99_ms, record.calls) == (50.0, 95.0, 99.0, 101)
    assert record.ratio_vs_encode_once is None


def test_a_ratio_pairs_rounds_so_a_slow_round_does_not_shift_it() -> None:
    assert paired_ratio([100.0, 900.0, 100.0], [10.0, 90.0, 20.0]) == 10.0
    assert paired_ratio(None, [1.0]) is None
    assert paired_ratio([100.0, 900.0, 100.0], [10.0, 450.0]) == 6.0  # only the rounds of both


def test_no_time_no_records_and_little_time_few_rounds() -> None:
    calls: list[str] = []
    processes = {"podx": FakeProcess("podx", 10.0, calls)}
    assert measure_cell(Cell(Task.TOPN, 1, 8), processes, 4, lambda: True) == []  # type: ignore[arg-type]
    assert calls == []
    answers = iter([False, False, False, True])
    (record,) = measure_cell(Cell(Task.TOPN, 1, 8), processes, 4, lambda: next(answers))  # type: ignore[arg-type]
    assert record.rounds == 2


def test_a_slow_call_warms_up_once() -> None:
    calls: list[str] = []
    processes = {"podx": FakeProcess("podx", speed.LONG_WARM_UP_MS + 1, calls)}
    measure_cell(Cell(Task.TOPN, 1, 1), processes, 1, never)  # type: ignore[arg-type]
    assert len(calls) == 2
