"""Which slots of the decoder's cache lie on each live beam's path."""

from __future__ import annotations

import numpy as np

from podx.bundle.signature import NOT_ON_PATH
from podx.decoding.select import entries
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


class ReusedSlots:
    """Slots of a cache of which those that no beam sees any more are filled again.

    Args:
        room: steps that the cache gets room for where it has too few free slots.

    Attributes:
        width: slots that the cache must have now.
    """

    def __init__(self, batch: int, room: int) -> None:
        self._slots = np.zeros((batch, 1, 0), dtype=np.int64)  # [batch, beams, steps]
        self._room = room
        self.width = 0

    def advance(self) -> tuple[IntArray, IntArray]:
        """Each live beam's slot of this step, [batch, beams], and how far every slot lies back, [batch, beams, slots].

        The last as :meth:`BeamPaths.advance` says it.
        """
        batch, beams, steps = self._slots.shape
        user = np.arange(batch)[:, None]
        seen = np.zeros((batch, self.width), dtype=np.bool_)
        seen[user, self._slots.reshape(batch, -1)] = True
        live = int(seen.sum(axis=1).max(initial=0))
        if live + beams > self.width:
            more = live + self._room * beams - self.width
            seen, self.width = np.pad(seen, ((0, 0), (0, more))), self.width + more
        own = np.argsort(seen, axis=1, kind="stable")[:, :beams]  # the first free ones
        self._slots = np.concatenate([self._slots, own[:, :, None]], axis=2)
        distance = np.full((batch, beams, self.width), NOT_ON_PATH, dtype=np.int64)
        distance[user[:, :, None], np.arange(beams)[:, None], self._slots] = np.arange(steps, -1, -1)
        return own, distance

    def follow(self, parents: IntArray) -> None:
        """See :meth:`BeamPaths.follow`."""
        self._slots = entries(self._slots, parents)

    def keep(self, users: IntArray) -> None:
        """See :meth:`BeamPaths.keep`."""
        self._slots = self._slots[users]
