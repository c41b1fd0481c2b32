"""What was measured, and the files it is kept in.

Every model, dataset and timing has a file of its own under ``measured``, written after each measurement;
``accuracy.json`` holds all of a report's, and every report is made from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from podx_bench.harness.record_file import RecordFile
from podx_bench.pages.table import MILLISECONDS

RESULTS_FILE = "accuracy.json"
COMMAND = "podx bench accuracy"
CONSTRAINED, UNCONSTRAINED, TEXT = "constrained", "unconstrained", "text"
"""How answers were searched for: inside the catalog, over the whole vocabulary; or an explanation."""

Kept = TypeVar("Kept", bound="DatasetRecord | ModelRecord | TimingRecord")


@dataclass(frozen=True)
class Measurement:
    """Accuracy on one task.

    Attributes:
        decoding: ``constrained``, ``unconstrained`` or ``text``.
        users: how many users (explanations: records) it was measured on.
        seconds: time of all calls; None for rows that run no model here.
        metrics: by name. Lists: ``hr_1`` … ``ndcg_10``, and shares of the answers that are no item (``invalid``),
            repeat an earlier one (``duplicate``), are in the user's history (``seen``), or, top-N alone, are no
            candidate (``outside``). Texts: ``bleu_4``, ``rouge_1``, ``rouge_2``, ``rouge_l``, in percent.
    """

    task: str
    decoding: str
    users: int
    seconds: float | None
    metrics: Mapping[str, float]

    @property
    def ms_per_user(self) -> float | None:
        """Time of all calls over the users."""
        return None if self.seconds is None else MILLISECONDS * self.seconds / self.users

    def timed(self, ms_per_user: float | None) -> Measurement:
        """The same with another time."""
        return replace(self, seconds=None if ms_per_user is None else ms_per_user * self.users / MILLISECONDS)


def widest(
    measurements: Sequence[Measurement], task: str, decoding: str, users: int | None = None
) -> Measurement | None:
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
    rows: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)
    codes: int = 0

    def find(self, name: str, task: str) -> Measurement | None:
        """The measurement of a row that learns nothing, on the most users there are."""
        return widest(self.rows.get(name, ()), task, CONSTRAINED)


@dataclass(frozen=True, kw_only=True)
class PeerRecord:
    """A method measured from the lists in its file.

    Attributes:
        label: name of its row. digest: of the file. dataset: digest of the data. environment: machine and versions.
        training: seed, minutes, and whatever else of its budget is known.
    """

    label: str
    digest: str
    dataset: str
    scheme: str
    training: Mapping[str, Any]
    environment: Mapping[str, Any]
    measurements: tuple[Measurement, ...] = ()

    @property
    def key(self) -> str:
        """Tells it from every other model of a report."""
        return f"{self.label} {self.digest} {self.dataset}"

    def find(self, task: str, decoding: str, users: int | None = None) -> Measurement | None:
        """See :func:`widest`."""
        return widest(self.measurements, task, decoding, users)


@dataclass(frozen=True, kw_only=True)
class ModelRecord(PeerRecord):
    """A bundle; those with the same label and id scheme are seeds of one method. ``digest``: of its manifest.

    Attributes:
        facts: shape, precision, size. options: of measuring: device, threads, batch size.
        templates: discrete words kept at inference, by task; empty: the bare template.
    """

    facts: Mapping[str, Any]
    templates: Mapping[str, str]
    options: Mapping[str, Any]


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
    peers: tuple[PeerRecord, ...] = ()
    timings: tuple[TimingRecord, ...] = ()
    notes: tuple[str, ...] = ()

    def timing(self, task: str) -> TimingRecord | None:
        """The times of a task; None: they were not taken."""
        return next((record for record in self.timings if record.task == task), None)

    def save(self, folder: Path) -> Path:
        """Write ``accuracy.json``; returns its path."""
        return _FILE.write(folder, self)

    @classmethod
    def load(cls, path: Path) -> AccuracyResults:
        """Read what :meth:`save` wrote; raises DataError where the file is missing, another one, or damaged."""
        return _FILE.read(path)


_FILE = RecordFile(RESULTS_FILE, "podx-accuracy", 1, COMMAND, AccuracyResults)


@dataclass(frozen=True)
class MeasuredFile:
    """The file of one model, dataset or timing."""

    path: Path

    def load(self, kind: type[Kept]) -> Kept | None:
        """What an earlier run wrote; None: nothing. Raises DataError where it is no such file, or damaged."""
        return self._file(kind).read(self.path) if self.path.exists() else None

    def save(self, record: Kept) -> None:
        """Write whole or not at all."""
        self._file(type(record)).write(self.path.parent, record)

    def _file(self, kind: type[Kept]) -> RecordFile[Kept]:
        return RecordFile(self.path.name, "podx-accuracy-part", 1, COMMAND, kind)
