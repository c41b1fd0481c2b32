"""Rows of the accuracy tables: measurements of one method put together over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from podx.text.templates import Task
from podx_bench.accuracy.records import (
    CONSTRAINED,
    UNCONSTRAINED,
    AccuracyResults,
    DatasetRecord,
    Measurement,
    ModelRecord,
    PeerRecord,
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
        seeds: a measurement per seed. records: the models or files they are of; empty for rows that learn nothing.
        timed: ms per user as taken in turns with the other models; empty where it was not.
    """

    name: str
    kind: str
    dataset: DatasetRecord
    seeds: tuple[Measurement, ...]
    records: tuple[PeerRecord, ...] = ()
    timed: tuple[float, ...] = ()

    @property
    def users(self) -> str:
        """On how many users, every number that occurs."""
        return " / ".join(f"{count:,}" for count in sorted({seed.users for seed in self.seeds}))

    def values(self, metric: str) -> list[float]:
        """A metric of every seed."""
        return [seed.metrics[metric] for seed in self.seeds if metric in seed.metrics]

    def milliseconds(self) -> list[float]:
        """Time per user as taken in turns; without that, in each seed's own run."""
        return list(self.timed) or [seed.ms_per_user for seed in self.seeds if seed.ms_per_user is not None]

    def template(self, task: str) -> str:
        """The discrete template that its models kept at inference; empty: none."""
        models = (record for record in self.records if isinstance(record, ModelRecord))
        return next((model.templates[task] for model in models if task in model.templates), "")


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
    popular, numbered = (dataset.find(name, Task.SEQUENTIAL) for name in (POPULARITY, NEXT_NUMBER))
    if popular is None or numbered is None:
        return dataset.scheme == SCHEMES[0]
    return bool(numbered.metrics["hr_10"] > popular.metrics["hr_10"])


def scheme_name(dataset: DatasetRecord) -> str:
    """The id scheme, with how items are written where it does not say so, and a word of warning where it leaks."""
    coded = dataset.codes and dataset.scheme in {scheme.value for scheme in IdScheme}
    return f"{dataset.scheme}{', items as codes' if coded else ''}{' (leaks)' if leaks(dataset) else ''}"


def ordered_datasets(results: AccuracyResults) -> list[DatasetRecord]:
    """Datasets by id scheme."""
    places = {scheme: place for place, scheme in enumerate(SCHEMES)}
    return sorted(results.datasets, key=lambda record: places.get(record.scheme, len(SCHEMES)))


def rows_of(results: AccuracyResults, task: str, decoding: str) -> list[Row]:
    """All rows of a task: by id scheme those that learn nothing, peers, models. Free search was not timed in turns."""
    rows: list[Row] = []
    timing = None if decoding == UNCONSTRAINED else results.timing(task)
    times = timing.ms_per_user if timing else {}
    for dataset in ordered_datasets(results):
        if decoding == CONSTRAINED:
            baselines = {name: dataset.find(name, task) for name in dataset.rows}
            rows += [Row(name, LEARNS_NOTHING, dataset, (m,)) for name, m in baselines.items() if m is not None]
        methods: dict[tuple[str, str], list[tuple[Measurement, PeerRecord]]] = {}
        for record in (*results.peers, *results.models):
            measurement = record.find(task, decoding)
            if record.dataset == dataset.digest and measurement is not None:
                key = (MODEL, PODX + record.label) if isinstance(record, ModelRecord) else (PEER, record.label)
                methods.setdefault(key, []).append((measurement, record))
        for (kind, name), pairs in methods.items():
            seeds, records = zip(*pairs, strict=True)
            timed = tuple(times[record.key] for record in records if record.key in times)
            rows.append(Row(name, kind, dataset, seeds, records, timed))
    return rows


def side_by_side(results: AccuracyResults, task: str) -> list[tuple[Row, Row]]:
    """Every method that was searched for freely: its constrained row on the same users, and the free one."""
    pairs = []
    for free in rows_of(results, task, UNCONSTRAINED):
        same = [record.find(task, CONSTRAINED, s.users) for record, s in zip(free.records, free.seeds, strict=True)]
        seeds = tuple(measurement for measurement in same if measurement is not None)
        if seeds:
            pairs.append((Row(free.name, free.kind, free.dataset, seeds, free.records), free))
    return pairs
