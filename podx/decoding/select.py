"""Top candidates per user, exact and without sorting everything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.decoding.stepper import FloatArray, IntArray

BLOCK = 64
"""Columns per block when whole-vocabulary rows are searched by their block maxima."""

NEVER = np.float32(-np.inf)


def best_columns(scores: FloatArray, count: int) -> IntArray:
    """Columns of the ``count`` best entries of each row, best first (ties: lower column first). [rows, count]."""
    count = min(count, scores.shape[1])
    if count < scores.shape[1]:
        columns = np.sort(np.argpartition(scores, -count, axis=1)[:, -count:], axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


@dataclass(frozen=True)
class Ragged:
    """Where each entry of a flat list grouped by user stands in a [batch, widest] grid."""

    user: IntArray
    position: IntArray
    widest: int

    @classmethod
    def of(cls, user: IntArray, batch: int) -> Ragged:
        """``user``: owner of each entry, ascending."""
        counts = np.bincount(user, minlength=batch)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        return cls(user, np.arange(len(user)) - starts[user], int(counts.max(initial=0)))

    def grid(self, values: npt.NDArray[np.generic], fill: object, batch: int) -> npt.NDArray[np.generic]:
        """Entries laid out by user: [batch, widest]."""
        grid = np.full((batch, self.widest), fill, dtype=values.dtype)
        grid[self.user, self.position] = values
        return grid


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
    bound = np.partition(maxima, -count, axis=1)[:, -count]
    row, column = np.nonzero(scores >= bound[:, None])
    places = Ragged.of(row, rows)
    candidates = best_columns(places.grid(scores[row, column], NEVER, rows), count)
    return np.take_along_axis(places.grid(column, 0, rows), candidates, axis=1)
