"""A small world on disk: data, an untrained checkpoint and its bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podx.text.templates import Task
from podx_bench.engines import EngineContext
from podx_bench.engines.process import EngineProcess, EngineServer
from podx_bench.run.run import Inputs
from podx_bench.workload.work import WorkItem
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


class EngineHere(EngineProcess):
    """An engine without a process of its own, which would load torch anew."""

    def __init__(
        self, name: str, context: EngineContext, requests: Sequence[WorkItem], call_timeout: float = 0, loads: str = ""
    ) -> None:
        self._requests, self._server = requests, EngineServer(loads or name, context, requests[0])
        self.load_s = 0.1

    def call(self, target: str, *arguments: Any, returns: Any) -> Any:
        return getattr(self._server, target)(*arguments)

    def close(self) -> None:
        pass


@contextmanager
def engines_here(but: Collection[str] = ()) -> Iterator[None]:
    """Runs of the bench have their engines in this process, ``but`` for those named."""

    def start(name: str, *arguments: Any, **options: Any) -> EngineProcess:
        return (EngineProcess if name in but else EngineHere)(name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for run in ("podx_bench.run.run", "podx_bench.accuracy.run"):
            patch.setattr(f"{run}.EngineProcess", start)
        if not but:
            patch.setattr("podx_bench.latency.speed.SETTLE_S", 0.0)
        yield
