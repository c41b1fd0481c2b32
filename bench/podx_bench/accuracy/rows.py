"""Rows of the accuracy tables: measurements of one method put together over its seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from podx.text.templates import Task
from podx_bench.accuracy.records import AccuracyResults, DatasetRecord, ModelRecord, TimingRecord
from podx_bench.harness.records import CONSTRAINED, UNCONSTRAINED, AccuracyRecord
from podx_bench.harness.resources import MILLISECONDS
from podx_bench.workload.baselines import NEXT_NUMBER, POPULARITY
from podx_train.data.numbering import IdScheme

SCHEMES = ("paper", "shuffled", "train-first", "collaborative", "semantic")
"""The order of the id schemes in every table; others follow."""
PODX = "podx: "
"""Begins the names of rows that a bundle was measured for."""
LEARNS_NOTHING, PEER, MODEL = "learns nothing", "peer", "model"


@dataclass(frozen=True)
class Method:
    """One method on one id scheme.

    Attributes:
        kind: :data:`LEARNS_NOTHING`, :data:`PEER` or :data:`MODEL`.
        seeds: a measurement per seed. records: the models or files they are of; empty for rows that learn nothing.
    """

    name: str
    kind: str
    dataset: DatasetRecord
    seeds: tuple[AccuracyRecord, ...]
    records: tuple[ModelRecord, ...] = ()

    def values(self, metric: str) -> list[float]:
        """A metric of every seed."""
        return [seed.metrics[metric] for seed in self.seeds]

    def template(self, task: str) -> str:
        """The discrete template that its models kept at inference; empty: none."""
        return next((record.templates[task] for record in self.records if task in record.templates), "")


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


def methods(results: AccuracyResults, task: str, decoding: str) -> list[Method]:
    """All methods measured on a task: by id scheme those that learn nothing, peers, models."""
    found: list[Method] = []
    timing = None if decoding == UNCONSTRAINED else results.timing(task)  # free search was not timed in turns
    for dataset in ordered_datasets(results):
        if decoding == CONSTRAINED:
            baselines = {name: dataset.find(name, task) for name in dataset.rows}
            found += [Method(name, LEARNS_NOTHING, dataset, (m,)) for name, m in baselines.items() if m is not None]
        seeds: dict[tuple[str, str], list[tuple[AccuracyRecord, ModelRecord]]] = {}
        for record in (*results.peers, *results.models):
            measurement = record.find(task, decoding)
            if record.dataset == dataset.digest and measurement is not None:
                key = (PODX + record.label, MODEL) if record.facts else (record.label, PEER)
                seeds.setdefault(key, []).append((measurement, record))
        for key, pairs in seeds.items():
            measurements, records = zip(*pairs, strict=True)
            found.append(Method(*key, dataset, _timed(measurements, records, timing), records))
    return found


def _timed(
    seeds: tuple[AccuracyRecord, ...], records: tuple[ModelRecord, ...], timing: TimingRecord | None
) -> tuple[AccuracyRecord, ...]:
    """Seeds with their times as taken in turns with the other models, if any of them was; else those of their runs."""
    ms = [timing.ms_per_user.get(record.key) if timing else None for record in records]
    if not any(ms):
        return seeds
    seconds = [None if each is None else each * seed.users / MILLISECONDS for each, seed in zip(ms, seeds, strict=True)]
    return tuple(replace(seed, seconds=taken) for seed, taken in zip(seeds, seconds, strict=True))


def side_by_side(results: AccuracyResults, task: str) -> list[tuple[Method, Method]]:
    """Every method that was searched for freely: constrained on the same users, and free."""
    pairs = []
    for free in methods(results, task, UNCONSTRAINED):
        same = [record.find(task, CONSTRAINED, s.users) for record, s in zip(free.records, free.seeds, strict=True)]
        seeds = tuple(measurement for measurement in same if measurement is not None)
        if seeds:
            pairs.append((replace(free, seeds=seeds), free))
    return pairs
