"""When a training stops for want of time, when it saves within an epoch, and when it says how far it is."""

from __future__ import annotations

import enum
import time

from podx_train.options import TrainOptions
from podx_train.training.state import Totals

SECONDS_PER_MINUTE = 60.0
TELL_SECONDS = 60.0
"""Time between two progress lines."""
FORWARD_SHARE = 0.4
"""What a validation batch takes of an update's time: the forward pass is a third of the arithmetic, a little more."""
SETTLED_UPDATES = 20
"""The first updates are slow (kernels are chosen, memory is claimed), so fewer foretell nothing."""
MOST_FOR_VALIDATION = 0.5
"""No more than this share of the time allowed is set aside for validation."""


class Signal(enum.IntEnum):
    """What to do before the next update."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    TELL = 3


class Clock:
    """Measures from its creation. Times are seconds.

    Args:
        held_out_batches: batches of one validation.
    """

    def __init__(self, options: TrainOptions, held_out_batches: int) -> None:
        self._limit = None if options.max_minutes is None else options.max_minutes * SECONDS_PER_MINUTE
        self._save_every = options.save_minutes * SECONDS_PER_MINUTE
        self._held_out_batches = held_out_batches
        self._validation: float | None = None
        self._started = self._saved = self._told = time.monotonic()

    def saved(self) -> None:
        """State has just been saved."""
        self._saved = time.monotonic()

    def told(self) -> None:
        """Progress has just been told."""
        self._told = time.monotonic()

    def validated(self, seconds: float) -> None:
        """A validation took this long, and the next one will."""
        self._validation = seconds

    def signal(self, totals: Totals) -> Signal:
        """What is due; ``totals`` are those of the epoch in progress."""
        now = time.monotonic()
        if self._limit is not None:
            reserve = min(self.validation_ahead(totals), MOST_FOR_VALIDATION * self._limit)
            if now - self._started >= self._limit - reserve:
                return Signal.STOP
        if now - self._saved > self._save_every:
            return Signal.SAVE
        worth_telling = totals.batches and now - self._told > TELL_SECONDS
        return Signal.TELL if worth_telling else Signal.GO_ON

    def validation_ahead(self, totals: Totals) -> float:
        """How long the validation after training will take: as the last one, else foretold from the updates so far."""
        if self._validation is not None:
            return self._validation
        updates = sum(totals.batches.values())
        if updates < SETTLED_UPDATES:
            return 0.0
        return FORWARD_SHARE * self._held_out_batches * totals.seconds / updates
