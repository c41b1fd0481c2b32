"""Which slots of the decoder's cache lie on each live beam's path."""

from __future__ import annotations

import numpy as np

from podx.bundle.signature import NOT_ON_PATH
from podx.decoding.stepper import IntArray


class BeamPaths:
    """A step fills one slot per beam; a slot is never moved. A beam remembers the slots of its ancestors."""

    def __init__(self, batch: int) -> None:
        self._slots = np.zeros((batch, 1, 0), dtype=np.int64)  # [batch, beams, steps]
        self._filled = 0

    def advance(self) -> IntArray:
        """Give each live beam its slot of this step, and say how far every slot lies back: [batch, beams, slots]."""
        batch, beams, steps = self._slots.shape
        slots = np.broadcast_to(self._filled + np.arange(beams)[None, :, None], (batch, beams, 1))
        self._slots = np.concatenate([self._slots, slots], axis=2)
        self._filled += beams
        distance = np.full((batch, beams, self._filled), NOT_ON_PATH, dtype=np.int64)
        ages = np.broadcast_to(np.arange(steps, -1, -1), self._slots.shape)
        np.put_along_axis(distance, self._slots, ages, axis=2)
        return distance

    def follow(self, parents: IntArray) -> None:
        """The next beams continue these: index of the parent beam, [batch, next beams]."""
        self._slots = np.take_along_axis(self._slots, parents[:, :, None], axis=1)

    def narrow(self, beams: int) -> None:
        """Go on with the first ``beams`` beams of every user."""
        self._slots = self._slots[:, :beams]

    def keep(self, users: IntArray) -> None:
        """Go on with these rows of the batch only."""
        self._slots = self._slots[users]


class LiveSlots:
    """Which slots of a cache some beam can still see; the others, and users who have left, are left behind each step.

    A step reads the slots that are still on a path and puts one per beam behind them. Users with fewer than others have
    slot 0 in the places that are over, which no beam sees.
    """

    def __init__(self, batch: int) -> None:
        self._slots = np.zeros((batch, 1, 0), dtype=np.int64)  # [batch, beams, steps]
        self._users, self._width = np.arange(batch), 0  # rows and slots of the cache as the last step left it

    def advance(self) -> tuple[IntArray, IntArray, IntArray]:
        """Rows of the cache to read again, [batch]; slots of each, [batch, past]; and how far each slot lies back.

        The last is [batch, beams, past + beams], as :meth:`BeamPaths.advance` says it.
        """
        batch, beams, steps = self._slots.shape
        on_path = self._slots.reshape(batch, -1)
        seen = np.zeros((batch, self._width), dtype=np.bool_)
        np.put_along_axis(seen, on_path, True, axis=1)
        place = np.cumsum(seen, axis=1) - 1
        past = int(seen.sum(axis=1).max(initial=0))
        kept = np.zeros((batch, past), dtype=np.int64)
        user, slot = np.nonzero(seen)
        kept[user, place[user, slot]] = slot
        moved = np.take_along_axis(place, on_path, axis=1).reshape(self._slots.shape)
        own = np.broadcast_to(past + np.arange(beams)[None, :, None], (batch, beams, 1))
        self._slots = np.concatenate([moved, own], axis=2)
        distance = np.full((batch, beams, past + beams), NOT_ON_PATH, dtype=np.int64)
        np.put_along_axis(distance, self._slots, np.broadcast_to(np.arange(steps, -1, -1), self._slots.shape), axis=2)
        users, self._users, self._width = self._users, np.arange(batch), past + beams
        return users, kept, distance

    def follow(self, parents: IntArray) -> None:
        """See :meth:`BeamPaths.follow`."""
        self._slots = np.take_along_axis(self._slots, parents[:, :, None], axis=1)

    def keep(self, users: IntArray) -> None:
        """Go on with these rows of the batch only."""
        self._slots, self._users = self._slots[users], self._users[users]
