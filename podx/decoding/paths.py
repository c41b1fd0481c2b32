"""Where in the decoder's cache each live beam's path lies."""

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


class BeamRows:
    """Each beam has a row of a cache, which holds its whole path.

    A beam goes on in the row of the beam that it continues. Where several continue one, the first stays there; each of
    the others takes a row in which nobody goes on. Of the parent's row it needs only what that row does not hold
    already, and the beams of a trained model have most of their paths in common.

    Attributes:
        row: each beam's row among those of its user, [batch, beams].
    """

    def __init__(self, batch: int) -> None:
        self.row: IntArray = np.zeros((batch, 1), dtype=np.int64)
        self._held = np.zeros((batch, 1, 0), dtype=np.int64)  # row in which each step of a row was written

    def follow(self, parents: IntArray | None) -> tuple[IntArray, ...]:
        """The next beams continue these, [batch, beams]; there are never fewer than before. None: the first step.

        Returns:
            what is to be copied within the rows of a user before the step is written: user, row it is in, row it
            goes to, and step, int64 [copies] each.
        """
        batch, before, steps = self._held.shape
        source = self.row if parents is None else entries(self.row, parents)
        user, every = np.arange(batch)[:, None], np.arange(source.shape[1])
        first = (source[:, :, None] == source[:, None, :]).argmax(axis=2) == every
        used = np.zeros(source.shape, dtype=np.bool_)
        used[user, source] = True
        free = np.argsort(used, axis=1, kind="stable")
        self.row = np.where(first, source, entries(free, np.cumsum(~first, axis=1) - 1))
        held = np.full((*source.shape, steps + 1), NOT_ON_PATH)
        held[:, :before, :steps], held[:, :, steps] = self._held, every
        wanted = self._held[user, source]
        copied, beam, step = np.nonzero(wanted != held[user, self.row, :steps])
        held[user, self.row, :steps] = wanted
        self._held = held
        return copied, source[copied, beam], self.row[copied, beam], step

    def keep(self, users: IntArray) -> None:
        """Go on with these rows of the batch only."""
        self.row, self._held = self.row[users], self._held[users]
