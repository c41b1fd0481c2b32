"""Summing a profile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "studies"))
from hotspots import Hotspot, hotspot_table, hotspots


def _event(name: str, operator: str, microseconds: int) -> dict[str, object]:
    return {"name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": operator}}


EVENTS = [
    _event("/recommend/encoder/layers.0/self_attention/MatMul", "MatMul", 3000),
    _event("/recommend/step.1/layers.2/feed_forward/MatMul", "MatMul", 1000),
    _event("/recommend/step.1/TopK", "TopK", 500),
    _event("/recommend/step.1/limits/Where", "Where", 500),
]


def test_times_are_summed_by_operator_and_part() -> None:
    by_operator, by_part = hotspots(EVENTS * 2, runs=2)
    assert by_operator[0] == Hotspot("MatMul", 2.0, 4.0)
    assert {one.name: one.ms for one in by_part} == {
        "encoder layers MatMul": 3.0,
        "step.1 layers MatMul": 1.0,
        "step.1 TopK": 0.5,
        "step.1 Where": 0.5,
    }


def test_the_last_row_is_the_whole() -> None:
    table = hotspot_table("t", hotspots(EVENTS, runs=1)[0])
    assert table.rows[0] == ("MatMul", "2", "4.00", "80.0%")
    assert table.rows[-1] == ("all", "4", "5.00", "100.0%")
    assert sum(float(row[2]) for row in table.rows[:-1]) == pytest.approx(5.0)
