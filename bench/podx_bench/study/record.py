"""What a sweep of ``podx study`` measured, and the file it is kept in. Every report is made from it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podx.text.templates import Task
from podx_bench.accuracy_report.records import CONSTRAINED, TEXT, ModelRecord, Study
from podx_bench.harness.record_file import RecordFile

STUDY_FILE = "study.json"
COMMAND = "podx study"
_FILE = RecordFile(STUDY_FILE, "podx-study", 1, COMMAND)
MEASURED = "measured"
"""How a point stands once it is done; else see :mod:`podx_bench.study.train`."""


@dataclass(frozen=True)
class PointRecord:
    """One value of a sweep.

    Attributes:
        train, export: options of podx train and podx export that the value stands for.
        state: :data:`MEASURED`, or how far it came.
        minutes: of its training, loading and validation included.
        updates, best_epoch, parameters: of the trained model; None: not known.
        accuracy: metrics by task. users: how many each task was measured on.
        ms_per_user: by task, taken in turns with the other points. round_ms: time of each round, by task.
        template: discrete words kept at inference, by task.
    """

    label: str
    train: tuple[str, ...]
    export: tuple[str, ...]
    state: str
    minutes: float
    updates: int | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    users: Mapping[str, int] = field(default_factory=dict)
    ms_per_user: Mapping[str, float] = field(default_factory=dict)
    round_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    template: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResults:
    """A sweep. ``sweep``: name, title, axis and note; ``extra``: options of podx train that a user added."""

    sweep: Mapping[str, str]
    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    extra: tuple[str, ...]
    dataset: Mapping[str, Any]
    points: tuple[PointRecord, ...]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write ``study.json`` under a temporary name and rename it; returns its path."""
        return _FILE.write(folder, dataclasses.asdict(self))

    @property
    def tasks(self) -> list[Task]:
        """The tasks that anything was measured on."""
        return [task for task in Task if any(task in point.accuracy for point in self.points)]

    @classmethod
    def load(cls, path: Path) -> SweepResults:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, is no such file, or has another format version.
        """
        content = _FILE.read(path)
        try:
            points = tuple(_point(one) for one in content.pop("points"))
            lists = {name: tuple(content.pop(name)) for name in ("extra", "notes")}
            return cls(**content, **lists, points=points)
        except (KeyError, TypeError) as error:
            raise _FILE.damaged(path, error) from error


def _point(content: Mapping[str, Any]) -> PointRecord:
    lists = {name: tuple(content[name]) for name in ("train", "export")}
    rounds = {task: tuple(ms) for task, ms in content["round_ms"].items()}
    return PointRecord(**{**content, **lists, "round_ms": rounds})


def with_measurements(point: PointRecord, model: ModelRecord, study: Study) -> PointRecord:
    """A point with what ``podx bench accuracy`` measured of its bundle."""
    found = {}
    for task in Task:
        measured = model.find(task, TEXT if task is Task.EXPLANATION else CONSTRAINED)
        if measured is not None:
            found[task.value] = measured
    times = {one.task: one for one in study.timings if model.key in one.ms_per_user}
    return dataclasses.replace(
        point,
        state=MEASURED,
        updates=model.training.get("updates"),
        best_epoch=model.training.get("best_epoch"),
        parameters=model.facts.get("parameters"),
        accuracy={task: one.metrics for task, one in found.items()},
        users={task: one.users for task, one in found.items()},
        ms_per_user={str(task): one.ms_per_user[model.key] for task, one in times.items()},
        round_ms={str(task): tuple(one.round_ms[model.key]) for task, one in times.items()},
        template=model.templates,
    )
