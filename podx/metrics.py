"""Accuracy of ranked lists against one held-out item per user (leave-one-out evaluation; POD paper, section 4.3).

A list is a row of item numbers, best first; 0 stands for an answer that is no item of the catalog, or for no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]
NOT_AN_ITEM = 0


def ranks(lists: IntArray, targets: IntArray) -> IntArray:
    """Place of the target's first occurrence, 1-based; 0 where it is not in the list. [users, k], [users] → [users]."""
    hits = lists == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def hit_ratio(lists: IntArray, targets: IntArray, k: int) -> float:
    """HR@k: share of users whose held-out item is among the first k."""
    place = ranks(lists, targets)
    return float(((place > 0) & (place <= k)).mean())


def ndcg(lists: IntArray, targets: IntArray, k: int) -> float:
    """NDCG@k with one relevant item: mean of 1 / log2(rank + 1), 0 where it is not among the first k."""
    place = ranks(lists, targets)
    gain = np.where((place > 0) & (place <= k), 1.0 / np.log2(np.maximum(place, 1) + 1.0), 0.0)
    return float(gain.mean())


def invalid_rate(lists: IntArray) -> float:
    """Share of answers that are no item of the catalog."""
    return float((lists == NOT_AN_ITEM).mean())


def duplicate_rate(lists: IntArray) -> float:
    """Share of answers that repeat an earlier answer of the same list (answers that are no item are not counted)."""
    ordered = np.sort(lists, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NOT_AN_ITEM)
    return float(repeats.sum() / lists.size)


def overlap(left: IntArray, right: IntArray, k: int) -> float:
    """Mean share of the first k of ``right`` that ``left`` also has among its first k, order aside."""
    shared = [
        len(set(a[a != NOT_AN_ITEM].tolist()) & set(b[b != NOT_AN_ITEM].tolist()))
        / max(1, int((b != NOT_AN_ITEM).sum()))
        for a, b in zip(left[:, :k], right[:, :k], strict=True)
    ]
    return float(np.mean(shared))


@dataclass(frozen=True)
class RankingMetrics:
    """The paper's ranking metrics (POD, section 4.3) and what constrained search makes impossible."""

    hr_1: float
    hr_5: float
    hr_10: float
    ndcg_5: float
    ndcg_10: float
    invalid: float
    duplicate: float
    users: int

    @classmethod
    def of(cls, lists: IntArray, targets: IntArray) -> RankingMetrics:
        """Measure lists of at least 10 places, [users, 10], against [users] held-out items."""
        return cls(
            hr_1=hit_ratio(lists, targets, 1),
            hr_5=hit_ratio(lists, targets, 5),
            hr_10=hit_ratio(lists, targets, 10),
            ndcg_5=ndcg(lists, targets, 5),
            ndcg_10=ndcg(lists, targets, 10),
            invalid=invalid_rate(lists),
            duplicate=duplicate_rate(lists),
            users=len(targets),
        )
