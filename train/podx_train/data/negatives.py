"""Fixed lists of items that a held-out item is ranked against (POD paper, section 4: 99 per user)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podx_train.data.folder import Int32Array
from podx_train.data.numbering import Sequences

PAPER_NEGATIVES = 99


def negatives_per_user(sequences: Sequences, wanted: int) -> int:
    """As many of ``wanted`` as the user with the most items leaves in the catalog."""
    distinct = np.unique(_pairs(sequences)) // sequences.item_count
    return min(wanted, sequences.item_count - int(np.bincount(distinct).max()))


def sample_negatives(sequences: Sequences, count: int, random: np.random.Generator) -> Int32Array:
    """Item codes [users, count]: for each user distinct items outside its whole sequence, uniformly drawn.

    Slots that hold a seen or a repeated item are drawn again until none is left. All allowed items of a user are
    treated alike at every step, so each set of ``count`` allowed items is equally likely.
    """
    taken = np.unique(_pairs(sequences))
    result = random.integers(sequences.item_count, size=(sequences.user_count, count), dtype=np.int32)
    open_users = np.arange(sequences.user_count)
    while len(open_users):
        rows = result[open_users]
        bad = _contains(taken, open_users[:, None].astype(np.int64) * sequences.item_count + rows) | _repeated(rows)
        rows[bad] = random.integers(sequences.item_count, size=int(bad.sum()), dtype=np.int32)
        result[open_users] = rows
        open_users = open_users[bad.any(axis=1)]
    return result


def _pairs(sequences: Sequences) -> NDArray[np.int64]:
    """One number per interaction that stands for its user and item."""
    return sequences.users.astype(np.int64) * sequences.item_count + sequences.items


def _contains(ordered: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``wanted`` occur in the ascending array ``ordered``."""
    place = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
    return np.asarray(ordered[place] == wanted)


def _repeated(rows: Int32Array) -> NDArray[np.bool_]:
    """Which entries of each row equal an earlier entry of that row."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.zeros(rows.shape, dtype=np.bool_)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated
