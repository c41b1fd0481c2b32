"""Top candidates, against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from podx.decoding.select import BLOCK, NEVER, Ragged, best_columns, best_of_wide_rows

few_values = st.sampled_from([np.float32(v) for v in (-3.5, -1.0, -0.25, 0.0)])


def by_sorting(scores: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=few_values), st.integers(1, 40)
)
def test_best_columns_sorts_ties_by_column(scores: np.ndarray, count: int) -> None:
    assert best_columns(scores, count).tolist() == by_sorting(scores, count).tolist()


def test_entries_of_minus_infinity_come_last_and_once_each() -> None:
    scores = np.array([[NEVER, -1.0, NEVER, 0.0, NEVER]], dtype=np.float32)
    columns = best_columns(scores, 4)[0].tolist()
    assert columns[:2] == [3, 1]
    assert len(set(columns)) == 4


@pytest.mark.parametrize("columns", [BLOCK * 4, BLOCK * 9, BLOCK * 9 + 7, 100_001])
@pytest.mark.parametrize("count", [1, 3, 14])
def test_wide_rows_give_the_same_as_sorting(columns: int, count: int) -> None:
    scores = np.random.default_rng(columns + count).normal(size=(3, columns)).astype(np.float32)
    assert best_of_wide_rows(scores, count).tolist() == by_sorting(scores, count).tolist()


def test_wide_rows_settle_ties_by_column() -> None:
    scores = np.zeros((2, BLOCK * 20 + 3), dtype=np.float32)
    scores[1, [5, 900, 1282]] = 1.0  # the last one lies behind the last whole block
    assert best_of_wide_rows(scores, 5).tolist() == [[0, 1, 2, 3, 4], [5, 900, 1282, 0, 1]]


@given(st.lists(st.integers(0, 4), max_size=20).map(sorted), st.integers(0, 6))
def test_ragged_lays_entries_out_by_user(owners: list[int], width: int) -> None:
    batch, user = 5, np.array(owners, dtype=np.int64)
    places = Ragged.of(user, batch)
    values = np.arange(100, 100 + len(owners))
    rows = [[v for v, u in zip(values.tolist(), owners, strict=True) if u == row] for row in range(batch)]
    widest = max(map(len, rows))
    assert places.grid(values, -1).tolist() == [row + [-1] * (widest - len(row)) for row in rows]
    columns = np.broadcast_to(np.arange(width)[::-1], (batch, width))
    expected = [[row[c] if c < len(row) else -1 for c in reversed(range(width))] for row in rows]
    assert places.at(values, columns, -1).tolist() == expected
