"""A small world on disk: data, an untrained checkpoint and its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from podx.text.templates import Task
from podx_bench.engines import EngineContext
from podx_bench.run.run import Inputs
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.data.folder import ExplanationRecord
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model

USERS, ITEMS, LENGTH = 30, 60, 6
BEAMS, K = 20, 10


@dataclass(frozen=True)
class Made:
    """Folders of one model."""

    data: Path
    checkpoint: Path
    bundle: Path

    @classmethod
    def within(cls, folder: Path) -> Made:
        """The folders that :func:`make_world` writes."""
        return cls(folder / "data", folder / "checkpoint", folder / "bundle")

    @property
    def inputs(self) -> Inputs:
        """What a run is about."""
        return Inputs(self.bundle, self.data, self.checkpoint)


def small_world(prefix: str = "item") -> Dataset:
    """Users who walk through the catalog."""
    starts = np.random.default_rng(3).integers(0, ITEMS, size=(USERS, 1))
    items = (starts + 7 * np.arange(LENGTH)) % ITEMS + 1
    records = [ExplanationRecord(user, int(items[user - 1, 0]), "it sounds good to me", "good") for user in range(1, 9)]
    return Dataset(
        items=items.astype(np.int32).ravel(),
        offsets=np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        user_ids=[f"user-{n}" for n in range(USERS)],
        item_ids=[f"{prefix}-{n}" for n in range(ITEMS)],
        explanations={"train": records[:4], "val": records[4:6], "test": records[6:]},
        scheme="paper",
    )


def make_world(folder: Path) -> Made:
    """Write data, an untrained model of all tasks, and its bundle."""
    dataset = small_world()
    dataset.save(folder / "data")
    options = TrainOptions(epochs=0, device="cpu", max_history=3)
    train_model(dataset, folder / "checkpoint", options, Source(preset="tiny", pieces=120))
    export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=2)
    return Made.within(folder)


def context_of(made: Made, checkpoint: Path | None = None, device: str = "cpu") -> EngineContext:
    """A context of the model, for engines made in this process."""
    return EngineContext(
        bundle=made.bundle,
        checkpoint=checkpoint or made.checkpoint,
        task=Task.SEQUENTIAL,
        device=device,
        threads=1,
        spin=False,
        beams=BEAMS,
        k=K,
    )
