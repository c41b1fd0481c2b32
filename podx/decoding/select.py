"""Top candidates per user, exact and without sorting everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from podx.decoding.stepper import FloatArray, IntArray

BLOCK = 64
"""Columns per block when whole-vocabulary rows are searched by their block maxima."""

NARROW = 128
"""Columns up to which sorting a row takes less time than the calls that save it."""

NEVER = np.float32(-np.inf)

Scalar = TypeVar("Scalar", bound=np.generic)


def entries(table: npt.NDArray[Scalar], columns: IntArray) -> npt.NDArray[Scalar]:
    """Entries of each row: [rows, …], [rows, n] → [rows, n, …]. ``take_along_axis`` takes three times as long."""
    return table[np.arange(len(table))[:, None], columns]


def best_columns(scores: FloatArray, count: int) -> IntArray:
    """Columns of the ``count`` best entries of each row, best first. [rows, count], or all where there are fewer.

    Equal scores come in order of their columns, so what is chosen depends on the row alone. Entries of -inf only fill
    up, in any order.
    """
    width = scores.shape[1]
    if width <= max(count, NARROW):
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    columns = np.sort(np.argpartition(scores, width - count, axis=1)[:, width - count :], axis=1)
    _settle_ties(scores, columns)
    order = np.argsort(-entries(scores, columns), axis=1, kind="stable")
    return entries(columns, order)


def _settle_ties(scores: FloatArray, columns: IntArray) -> None:
    """Where more entries equal the last chosen one than there is room for, choose those in the lowest columns."""
    count = columns.shape[1]
    last = entries(scores, columns).min(axis=1)
    tied = np.flatnonzero(((scores >= last[:, None]).sum(axis=1) > count) & (last > NEVER))
    if len(tied):
        columns[tied] = np.sort(np.argsort(-scores[tied], axis=1, kind="stable")[:, :count], axis=1)


@dataclass(frozen=True)
class Ragged:
    """Where each entry of a flat list grouped by user stands in a [batch, widest] grid.

    Attributes:
        user: owner of each entry, ascending, [entries]. position: place among the owner's entries, [entries].
        starts, counts: first entry and number of entries of each user, [batch].
    """

    user: IntArray
    position: IntArray
    starts: IntArray
    counts: IntArray

    @classmethod
    def of(cls, user: IntArray, batch: int) -> Ragged:
        """``user``: owner of each entry, ascending."""
        counts = np.bincount(user, minlength=batch)
        starts = np.cumsum(counts) - counts
        return cls(user, np.arange(len(user)) - starts[user], starts, counts)

    def grid(self, values: npt.NDArray[Scalar], fill: Scalar | int) -> npt.NDArray[Scalar]:
        """Entries laid out by user: [batch, widest]."""
        grid = np.full((len(self.counts), int(self.counts.max(initial=0))), fill, dtype=values.dtype)
        grid[self.user, self.position] = values
        return grid

    def at(self, values: npt.NDArray[Scalar], columns: IntArray, fill: Scalar | int) -> npt.NDArray[Scalar]:
        """What :meth:`grid` would hold at ``columns`` [batch, n] of each user's row."""
        inside = columns < self.counts[:, None]
        place = np.where(inside, self.starts[:, None] + columns, len(values))
        return np.append(values, np.array([fill], dtype=values.dtype))[place]


def best_of_wide_rows(scores: FloatArray, count: int) -> IntArray:
    """As :func:`best_columns`, for rows of many thousand columns.

    The ``count`` best block maxima bound the ``count``-th best entry from below, so only entries that reach the
    smallest of them need looking at.
    """
    rows, columns = scores.shape
    blocks = columns // BLOCK
    if blocks <= count:
        return best_columns(scores, count)
    maxima = scores[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK).max(axis=2)
    bound = np.partition(maxima, blocks - count, axis=1)[:, blocks - count]
    row, column = np.nonzero(scores >= bound[:, None])
    places = Ragged.of(row, rows)
    return places.at(column, best_columns(places.grid(scores[row, column], NEVER), count), 0)
