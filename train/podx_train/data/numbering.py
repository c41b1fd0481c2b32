"""How users and items get their numbers, which the model reads and writes as words.

Numbers carry information. Items numbered by first appearance in *full* sequences tell the held-out item: it is often
the largest number so far plus one. Users kept in the order of a file sorted by item stand beside users who share an
item with them, which may be a held-out one. ``train-first`` takes both orders from the training parts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from podx_train.data.folder import Int32Array, training_mask

IntArray = NDArray[np.int64]


class IdScheme(StrEnum):
    """A way to number users and items; the value is its name on the command line."""

    TRAIN_FIRST = "train-first"
    SHUFFLED = "shuffled"
    PAPER = "paper"


@dataclass(frozen=True)
class Sequences:
    """Users' items in order of time, by 0-based codes: int32 ``items`` [n] and ``offsets`` [users + 1]."""

    items: Int32Array
    offsets: Int32Array
    item_count: int

    @property
    def user_count(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def users(self) -> Int32Array:
        """User code of each entry of ``items``, [n]."""
        return np.repeat(np.arange(self.user_count, dtype=np.int32), np.diff(self.offsets))

    def take(self, order: IntArray) -> Sequences:
        """The same sequences with users in another order: new user n is old user ``order[n]``."""
        lengths = np.diff(self.offsets)[order]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        within = np.arange(len(self.items)) - np.repeat(offsets[:-1], lengths)
        return Sequences(self.items[np.repeat(self.offsets[:-1][order], lengths) + within], offsets, self.item_count)

    def training_part(self) -> Sequences:
        """All but the last two items of each user."""
        lengths = np.diff(self.offsets) - 2
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return Sequences(self.items[training_mask(self.offsets)], offsets, self.item_count)


@dataclass(frozen=True)
class Numbering:
    """``users[n]`` and ``items[n]``: the codes of the user and the item that get number n + 1; permutations."""

    users: IntArray
    items: IntArray


def number_ids(sequences: Sequences, scheme: IdScheme, numbered: bool, random: np.random.Generator) -> Numbering:
    """Give users and items their numbers.

    Args:
        sequences: codes in order of appearance in the input (of the number, where ``numbered``).
        scheme: see :class:`IdScheme`.
        numbered: the input had numbers already; ``paper`` then keeps their order.
        random: source of every random choice.
    """
    users, items = sequences.user_count, sequences.item_count
    if scheme is IdScheme.SHUFFLED:
        return Numbering(random.permutation(users), random.permutation(items))
    if scheme is IdScheme.PAPER:  # users as in the input, items by first appearance in full sequences: a leak
        return Numbering(np.arange(users), np.arange(items) if numbered else _by_appearance(sequences.items))
    return _train_first(sequences, random)


def _train_first(sequences: Sequences, random: np.random.Generator) -> Numbering:
    """Numbers from training parts only.

    Users are put next to others with whom they share a training item: each user's place is the smallest of its training
    items' random ranks (a min-hash). Walking the training parts in that order numbers the items; those that occur
    only as held-out items follow in random order.
    """
    training = sequences.training_part()
    rank = random.permutation(sequences.item_count)
    place = np.minimum.reduceat(rank[training.items], training.offsets[:-1])
    users = np.lexsort((random.permutation(sequences.user_count), place))
    seen = _by_appearance(training.take(users).items)
    unseen = np.setdiff1d(np.arange(sequences.item_count), seen)
    return Numbering(users, np.concatenate((seen, random.permutation(unseen))))


def _by_appearance(items: Int32Array) -> IntArray:
    """Distinct items in order of first appearance."""
    distinct, first = np.unique(items, return_index=True)
    return distinct[np.argsort(first)].astype(np.int64)
