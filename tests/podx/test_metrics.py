"""Ranking metrics on lists small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from podx.metrics import RankingMetrics, duplicate_rate, hit_ratio, invalid_rate, ndcg, overlap, ranks

LISTS = np.array([[5, 3, 9], [2, 2, 5], [0, 0, 7], [1, 4, 6]])
TARGETS = np.array([3, 2, 7, 8])


def test_ranks_are_of_the_first_occurrence() -> None:
    assert ranks(LISTS, TARGETS).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize(
    ("k", "hr", "gain"), [(1, 1 / 4, 1.0), (2, 2 / 4, 1 + 1 / math.log2(3)), (3, 3 / 4, 1.5 + 1 / math.log2(3))]
)
def test_hit_ratio_and_ndcg(k: int, hr: float, gain: float) -> None:
    assert hit_ratio(LISTS, TARGETS, k) == hr
    assert ndcg(LISTS, TARGETS, k) == pytest.approx(gain / 4)


def test_what_is_no_item_is_invalid_and_no_repeat() -> None:
    assert invalid_rate(LISTS) == 2 / 12
    assert duplicate_rate(LISTS) == 1 / 12


def test_overlap_is_the_share_of_the_right_list() -> None:
    left, right = np.array([[1, 2, 3], [4, 0, 0], [1, 2, 3]]), np.array([[2, 1, 9], [4, 5, 0], [0, 0, 0]])
    assert overlap(left, right, 3) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert overlap(left, right, 1) == pytest.approx((0 + 1 + 0) / 3)


def test_all_at_once() -> None:
    lists = np.tile(np.arange(1, 11), (4, 1))
    metrics = RankingMetrics.of(lists, np.array([1, 4, 10, 11]))
    assert (metrics.hr_1, metrics.hr_5, metrics.hr_10) == (0.25, 0.5, 0.75)
    assert metrics.ndcg_5 == pytest.approx((1 + 1 / math.log2(5)) / 4)
    assert metrics.ndcg_10 == pytest.approx((1 + 1 / math.log2(5) + 1 / math.log2(11)) / 4)
    assert (metrics.invalid, metrics.duplicate, metrics.users) == (0.0, 0.0, 4)
