"""What was measured, and the files it is kept in.

Every model, dataset and timing has a file of its own under ``measured``, written after each measurement;
``accuracy.json`` holds all of a report's, and every report is made from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podx_bench.harness.record_file import RecordFile
from podx_bench.harness.records import CONSTRAINED, AccuracyRecord

COMMAND = "podx bench accuracy"


def widest(
    measurements: Sequence[AccuracyRecord], task: str, decoding: str, users: int | None = None
) -> AccuracyRecord | None:
    """The measurement of a task on so many users; None: on the most there are. None where there is none."""
    matching = [m for m in measurements if (m.task, m.decoding) == (task, decoding) and users in (None, m.users)]
    return max(matching, key=lambda measurement: measurement.users, default=None)


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset, its leaks, and the rows that learn nothing.

    Attributes:
        name: of its folder. digest: of its files. codes: most codes that an item is written as; 0: as its number.
        stats: see :class:`podx_train.data.stats.DatasetStats`. leaks: see :func:`.datasets.leak_counts`.
        rows: measurements by the row's name.
    """

    name: str
    scheme: str
    digest: str
    stats: Mapping[str, Any]
    leaks: Mapping[str, int]
    rows: Mapping[str, tuple[AccuracyRecord, ...]] = field(default_factory=dict)
    codes: int = 0

    def find(self, name: str, task: str) -> AccuracyRecord | None:
        """The measurement of a row that learns nothing, on the most users there are."""
        return widest(self.rows.get(name, ()), task, CONSTRAINED)


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A bundle, or a peer: a method of which the lists in its file are measured.

    Those with the same label and id scheme are seeds of one method.

    Attributes:
        label: name of its row. digest: of its manifest, or of its file. dataset: digest of the data.
        training: seed, minutes, and whatever else of its budget is known. environment: machine and versions.
        facts: shape, precision, size. options: of measuring: device, threads, batch size. Both are empty for a peer.
        templates: discrete words kept at inference, by task; empty: the bare template.
    """

    label: str
    digest: str
    dataset: str
    scheme: str
    training: Mapping[str, Any]
    environment: Mapping[str, Any]
    measurements: tuple[AccuracyRecord, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells it from every other model of a report."""
        return f"{self.label} {self.digest} {self.dataset}"

    def find(self, task: str, decoding: str, users: int | None = None) -> AccuracyRecord | None:
        """See :func:`widest`."""
        return widest(self.measurements, task, decoding, users)


@dataclass(frozen=True)
class TimingRecord:
    """Time of all models on one task, in turns. ``ms_per_user``: over all ``rounds`` of each, by the model's key."""

    task: str
    batch_size: int
    users: int
    rounds: int
    ms_per_user: Mapping[str, float]


@dataclass(frozen=True)
class AccuracyResults:
    """All that a report shows. ``environment``: of the report's own run; ``options``: what it was asked for."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    datasets: tuple[DatasetRecord, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    peers: tuple[ModelRecord, ...] = ()
    timings: tuple[TimingRecord, ...] = ()
    notes: tuple[str, ...] = ()

    def timing(self, task: str) -> TimingRecord | None:
        """The times of a task; None: they were not taken."""
        return next((record for record in self.timings if record.task == task), None)


ACCURACY_FILE = RecordFile("accuracy.json", "podx-accuracy", 1, COMMAND, AccuracyResults)
