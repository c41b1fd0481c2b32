"""How far a training has come: the counters that, with the weights, are all that a resumed one needs.

Batches, dropout and learning rate are functions of the seed and these counters, so no generator has to be saved.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from podx.errors import CheckpointError

_DROPOUT_STREAM = 2
MIXED_NAME = "mixed"
"""Name under which the training loss of batches of several tasks is kept."""


@dataclass
class Totals:
    """Sums over the part of an epoch that is done.

    Attributes:
        loss, batches: sum of batch losses and number of batches, by task.
        pads, tokens: pad tokens, and all tokens.
        seconds: time spent on updates.
        building_seconds: time spent building their batches, maybe while the device worked.
        waiting_seconds: the part of ``seconds`` spent waiting for batches.
    """

    loss: dict[str, float] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    pads: int = 0
    tokens: int = 0
    seconds: float = 0.0
    building_seconds: float = 0.0
    waiting_seconds: float = 0.0

    def means(self, since: Totals | None = None) -> dict[str, float]:
        """Mean loss by task, of the batches after ``since`` alone where it is given."""
        before = since or Totals()
        counts = {name: self.batches[name] - before.batches.get(name, 0) for name in self.loss}
        return {name: (self.loss[name] - before.loss.get(name, 0.0)) / n for name, n in counts.items() if n}

    def copy(self) -> Totals:
        """The sums as they are now."""
        return dataclasses.replace(self, loss=dict(self.loss), batches=dict(self.batches))


@dataclass
class TrainState:
    """Where training stands.

    Attributes:
        epoch: the epoch in progress, from 0.
        batch: its next batch.
        updates: optimiser steps taken.
        best_loss, best_epoch: criterion and number (from 1) of the published weights.
        epoch_best: best criterion at the end of an epoch; early stopping compares with this.
        bad_epochs: epochs without improvement, in a row or in all.
        totals: sums over the epoch in progress.
        curve: one entry per finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    epoch_best: float = math.inf
    bad_epochs: int = 0
    totals: Totals = field(default_factory=Totals)
    curve: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """JSON values; infinity is written as None."""
        content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainState:
        """Read what :meth:`as_json` gave.

        Raises:
            CheckpointError: it is not that.
        """
        lacking = {field.name for field in dataclasses.fields(cls)} - content.keys()
        if lacking:
            raise CheckpointError(f"the saved trainer state lacks {', '.join(sorted(lacking))}: train again")
        try:
            return msgspec.convert({name: value for name, value in content.items() if value is not None}, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"the saved trainer state cannot be read ({error}): train again") from error

    def judge(self, criterion: float, cumulative: bool) -> None:
        """Count an epoch for early stopping."""
        if criterion < self.epoch_best:
            self.epoch_best = criterion
            self.bad_epochs = self.bad_epochs if cumulative else 0
        else:
            self.bad_epochs += 1


def dropout_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """Seed of torch's generator for one update on one process."""
    stream = np.random.SeedSequence([seed, _DROPOUT_STREAM, epoch, batch, rank])
    return int(stream.generate_state(1, np.uint32)[0])


def learning_rate(base: float, update: int, warmup: int, total: int | None) -> float:
    """Rate of an update (from 0): linear warm-up, then constant, or a cosine down to zero at ``total`` updates."""
    if update < warmup:
        return base * (update + 1) / warmup
    if total is None:
        return base
    passed = (update - warmup) / max(1, total - warmup)
    return base * (1 + math.cos(math.pi * min(1.0, passed))) / 2
