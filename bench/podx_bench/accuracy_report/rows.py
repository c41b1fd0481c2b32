"""Rows of the accuracy tables: measurements of one method put together over its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from podx.text.templates import Task
from podx_bench.accuracy_report.records import (
    CONSTRAINED,
    UNCONSTRAINED,
    DatasetRecord,
    Measurement,
    ModelRecord,
    PeerRecord,
    Study,
)
from podx_bench.pages.table import NONE
from podx_bench.workload.baselines import NEXT_NUMBER, POPULARITY
from podx_train.data.numbering import IdScheme

SCHEMES = ("paper", "shuffled", "train-first", "collaborative", "semantic")
"""The order of the id schemes in every table; others follow."""
PODX = "podx: "
"""Begins the names of rows that a bundle was measured for."""
LEARNS_NOTHING, PEER, MODEL = "learns nothing", "peer", "model"


@dataclass(frozen=True)
class Row:
    """One method on one id scheme.

    Attributes:
        kind: :data:`LEARNS_NOTHING`, :data:`PEER` or :data:`MODEL`.
        found: a measurement per seed. records: the models they are of; empty for other rows.
        timed: ms per user as taken in turns with the other models; empty where it was not.
    """

    name: str
    kind: str
    dataset: DatasetRecord
    found: tuple[Measurement, ...]
    records: tuple[ModelRecord, ...] = ()
    timed: tuple[float, ...] = ()

    @property
    def users(self) -> str:
        """On how many users, every number that occurs."""
        return " / ".join(f"{count:,}" for count in sorted({one.users for one in self.found}))

    def values(self, metric: str) -> list[float]:
        """A metric of every seed."""
        return [one.metrics[metric] for one in self.found if metric in one.metrics]

    def milliseconds(self) -> list[float]:
        """Time per user as taken in turns; without that, in each seed's own run."""
        return list(self.timed) or [one.ms_per_user for one in self.found if one.ms_per_user is not None]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None: there is one value only."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation as text."""
    if not values:
        return NONE
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def leaks(dataset: DatasetRecord) -> bool:
    """Whether item numbers alone tell the held-out item better than popularity does, of the same users."""
    popular = dataset.find(POPULARITY, Task.SEQUENTIAL)
    numbered = dataset.find(NEXT_NUMBER, Task.SEQUENTIAL)
    if popular is None or numbered is None:
        return dataset.scheme == SCHEMES[0]
    return bool(numbered.metrics["hr_10"] > popular.metrics["hr_10"])


def scheme_name(dataset: DatasetRecord) -> str:
    """The id scheme, with how items are written where it does not say so, and a word of warning where it leaks."""
    coded = dataset.codes and dataset.scheme in {scheme.value for scheme in IdScheme}
    name = f"{dataset.scheme}, items as codes" if coded else dataset.scheme
    return f"{name} (leaks)" if leaks(dataset) else name


def ordered_datasets(study: Study) -> list[DatasetRecord]:
    """Datasets by id scheme."""
    places = {scheme: place for place, scheme in enumerate(SCHEMES)}
    return sorted(study.datasets, key=lambda record: places.get(record.scheme, len(SCHEMES)))


def rows_of(study: Study, task: str, decoding: str) -> list[Row]:
    """All rows of a task: by id scheme those that learn nothing, peers, models."""
    rows: list[Row] = []
    for dataset in ordered_datasets(study):
        if decoding == CONSTRAINED:
            rows += _baseline_rows(dataset, task)
        rows += _record_rows(study.peers, dataset, task, decoding, PEER)
        rows += [_timed(study, task, row) for row in _record_rows(study.models, dataset, task, decoding, MODEL)]
    return rows


def _timed(study: Study, task: str, row: Row) -> Row:
    """A row with the times that were taken in turns; free search was not timed so."""
    timing = study.timing(task)
    if timing is None or any(one.decoding == UNCONSTRAINED for one in row.found):
        return row
    times = (timing.ms_per_user.get(record.key) for record in row.records)
    return dataclasses.replace(row, timed=tuple(time for time in times if time is not None))


def _baseline_rows(dataset: DatasetRecord, task: str) -> list[Row]:
    rows = []
    for name in dataset.rows:
        found = dataset.find(name, task)
        if found is not None:
            rows.append(Row(name, LEARNS_NOTHING, dataset, (found,)))
    return rows


def _record_rows(
    records: Iterable[ModelRecord | PeerRecord], dataset: DatasetRecord, task: str, decoding: str, kind: str
) -> list[Row]:
    groups: dict[str, list[tuple[Measurement, ModelRecord | PeerRecord]]] = {}
    for record in records:
        own = [m for m in record.measurements if (m.task, m.decoding) == (task, decoding)]
        if record.dataset == dataset.digest and own:
            groups.setdefault(record.label, []).append((max(own, key=lambda one: one.users), record))
    prefix = PODX if kind == MODEL else ""
    return [
        Row(
            prefix + label,
            kind,
            dataset,
            tuple(found for found, _ in pairs),
            tuple(record for _, record in pairs if isinstance(record, ModelRecord)),
        )
        for label, pairs in groups.items()
    ]


def side_by_side(study: Study, task: str) -> list[tuple[Row, Row]]:
    """Every method that was searched for freely: its constrained row on the same users, and the free one."""
    pairs = []
    for free in rows_of(study, task, UNCONSTRAINED):
        same = [
            record.find(task, CONSTRAINED, found.users) for record, found in zip(free.records, free.found, strict=True)
        ]
        found = tuple(one for one in same if one is not None)
        if found:
            pairs.append((Row(free.name, free.kind, free.dataset, found, free.records), free))
    return pairs
