"""One run: models, peers and datasets in, ``accuracy.json`` out, kept after every measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import msgspec

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS
from podx_bench.accuracy import measure
from podx_bench.accuracy.datasets import dataset_digest, describe_dataset, score_peer
from podx_bench.accuracy.measure import Model, Progress
from podx_bench.accuracy.options import MODEL_FORM, AccuracyOptions, ModelInput, PeerInput, slug
from podx_bench.accuracy.records import AccuracyResults, DatasetRecord, MeasuredFile, ModelRecord, TimingRecord
from podx_bench.harness.environment import describe
from podx_bench.workload.scenarios import choose_tasks
from podx_train.data.dataset import Dataset

MEASURED_FOLDER = "measured"
DIGEST_LENGTH = 12


def run_accuracy(
    models: Sequence[ModelInput],
    peers: Sequence[PeerInput],
    out: Path,
    options: AccuracyOptions,
    progress: Progress = lambda *_: None,
    data: Sequence[Path] = (),
) -> AccuracyResults:
    """Measure what earlier runs into ``out`` have not measured yet.

    Args:
        data: further datasets whose leaks and rows that learn nothing are shown.

    Raises:
        ConfigError: nothing is given, bundle and dataset do not belong together, a task is not in the bundle, or a
            bundle is given twice under one label.
        DataError, BundleError: what was given cannot be read, or a peer's lists are not about the dataset.
        EngineError: a model's process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    if not models and not peers and not data:
        raise ConfigError(f"nothing to measure: give models as {MODEL_FORM}, a --peer, or --data")
    return _Run(out, options, progress).all(models, peers, data)


def digest_of(*parts: object) -> str:
    """What tells a file of measurements from others, for its name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


class _Run:
    """A run under way: the results so far, on disk after every change."""

    def __init__(self, out: Path, options: AccuracyOptions, progress: Progress) -> None:
        self._out, self._options, self._progress = out, options, progress
        self._loaded = cache(Dataset.load)
        self._datasets: dict[Path, DatasetRecord] = {}
        environment = describe(options.device, options.threads)
        self._results = AccuracyResults(environment, msgspec.to_builtins(options))

    def all(self, models: Sequence[ModelInput], peers: Sequence[PeerInput], data: Sequence[Path]) -> AccuracyResults:
        opened: dict[tuple[str, str], Model] = {}  # by label and digest, before anything takes long
        for given in models:
            model = Model(given, Bundle.load(given.bundle), self._loaded(given.data))
            measure.require_same_data(model)
            measure.plan_jobs(model, self._options)
            key = (given.label, file_sha256(given.bundle / MANIFEST_FILE))
            if opened.setdefault(key, model) is not model:
                raise ConfigError(f"{given.label}: {given.bundle} is a copy of a bundle given before, not another seed")
        for path in data:
            self._dataset(path)
        for peer in peers:
            self._peer(peer)
        firsts: dict[tuple[str, str], tuple[str, Model]] = {}
        for (label, digest), model in opened.items():
            record = self._model(model, digest)
            firsts.setdefault((label, record.dataset), (record.key, model))
        if self._options.timed_users:
            self._time(dict(firsts.values()))
        return self._results

    def _dataset(self, path: Path) -> DatasetRecord:
        if path not in self._datasets:
            digest = dataset_digest(path)
            self._progress(f"leaks of {path.name}", 0, 1)
            file = self._file(f"data-{slug(path.resolve().name)}", digest, self._options.seed)
            record = describe_dataset(self._loaded(path), path, digest, self._options, file)
            self._datasets[path] = record
            if record.digest not in {known.digest for known in self._results.datasets}:
                self._keep(datasets=(*self._results.datasets, record))
        return self._datasets[path]

    def _peer(self, peer: PeerInput) -> None:
        data = self._dataset(peer.data)
        record, notes = score_peer(peer.file, self._loaded(peer.data), data.digest, self._options)
        if any((known.digest, known.dataset) == (record.digest, record.dataset) for known in self._results.peers):
            raise ConfigError(f"{peer.file} was given before: the same lists are not another seed")
        self._keep(peers=(*self._results.peers, record), notes=(*self._results.notes, *notes))

    def _model(self, model: Model, digest: str) -> ModelRecord:
        label, data, before = model.given.label, self._dataset(model.given.data), self._results.models
        file = self._file(slug(label), label, digest, data.digest, self._options.measuring())
        record = file.load(ModelRecord)
        if record is None:
            record = measure.new_record(model, digest, data.digest, self._results.environment, self._options)
        for current in chain([record], measure.measure_model(record, model, self._options, self._progress)):
            file.save(current)
            self._keep(models=(*before, current))
        return record

    def _time(self, models: dict[str, Model]) -> None:
        options, measuring = self._options, self._options.measuring()
        for task in ALL_TASKS:
            timed = {k: m for k, m in models.items() if task in choose_tasks(m.bundle, m.dataset, options.tasks)}
            if not timed:
                continue
            file = self._file(f"timing-{task}", list(timed), measuring, options.timed_users, options.rounds)
            record = file.load(TimingRecord)
            if record is None:
                self._progress(f"{task}: time {len(timed)} models in turns", 0, 1)
                record = measure.time_models(task, timed, options)
                file.save(record)
            self._keep(timings=(*self._results.timings, record))

    def _file(self, name: str, *marks: object) -> MeasuredFile:
        return MeasuredFile(self._out / MEASURED_FOLDER / f"{name}-{digest_of(*marks)}.json")

    def _keep(self, **changes: object) -> None:
        self._results = dataclasses.replace(self._results, **changes)  # type: ignore[arg-type]
        self._results.save(self._out)
