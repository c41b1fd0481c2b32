"""One run: models, peers and datasets in, ``accuracy.json`` out, kept after every measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.errors import ConfigError
from podx_bench.accuracy.datasets import dataset_digest, describe_dataset
from podx_bench.accuracy.measure import Model, Progress, measure_model, new_record, plan_jobs, require_same_data
from podx_bench.accuracy.options import MODEL_FORM, AccuracyOptions, ModelInput, PeerInput, slug
from podx_bench.accuracy.peers import score_peer
from podx_bench.accuracy.records import AccuracyResults, DatasetRecord, MeasuredFile, ModelRecord
from podx_bench.accuracy.timing import DIGEST_LENGTH, time_all
from podx_bench.harness.environment import describe
from podx_train.data.dataset import Dataset

MEASURED_FOLDER = "measured"


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
        ConfigError: nothing is given, bundle and dataset do not belong together, or a task is not in the bundle.
        DataError, BundleError: what was given cannot be read, or a peer's lists are not about the dataset.
        EngineError: a model's process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    if not models and not peers and not data:
        raise ConfigError(f"nothing to measure: give models as {MODEL_FORM}, a --peer, or --data")
    return _Run(out, options, progress).all(models, peers, data)


def manifest_digest(bundle: Path) -> str:
    """Hex digest of a bundle's manifest, which names the digest of every file."""
    return file_sha256(bundle / MANIFEST_FILE)


def refuse_copies(models: Sequence[ModelInput]) -> None:
    """Bundles of one label are seeds, so none may be there twice.

    Raises:
        ConfigError: two of them are the same, under whatever path.
    """
    known: set[tuple[str, str]] = set()
    for model in models:
        key = (model.label, manifest_digest(model.bundle))
        if key in known:
            raise ConfigError(f"{model.label}: {model.bundle} is a copy of a bundle given before, not another seed")
        known.add(key)


def digest_of(*parts: object) -> str:
    """What tells a file of measurements from others, for its name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


class _Run:
    """A run under way: the results so far, on disk after every change."""

    def __init__(self, out: Path, options: AccuracyOptions, progress: Progress) -> None:
        self._out, self._options, self._progress = out, options, progress
        self._loads: dict[Path, Dataset] = {}
        self._datasets: dict[Path, DatasetRecord] = {}
        environment = describe(options.device, options.threads)
        self._results = AccuracyResults(environment, msgspec.to_builtins(options))

    def all(self, models: Sequence[ModelInput], peers: Sequence[PeerInput], data: Sequence[Path]) -> AccuracyResults:
        opened = [self._opened(model) for model in models]  # before anything takes long
        refuse_copies(models)
        for path in data:
            self._dataset(path)
        for peer in peers:
            self._peer(peer)
        for model in opened:
            self._model(model)
        if self._options.timed_users and models:
            firsts: dict[tuple[str, str], tuple[str, Model]] = {}
            for record, model in zip(self._results.models, opened, strict=True):
                firsts.setdefault((record.label, record.dataset), (record.key, model))
            timings = time_all(
                dict(firsts.values()), self._options, self._file, lambda what: self._progress(what, 0, 1)
            )
            self._keep(timings=tuple(timings))
        return self._results

    def _opened(self, given: ModelInput) -> Model:
        model = Model(given, Bundle.load(given.bundle), self._loaded(given.data))
        require_same_data(model.bundle, model.dataset, given.label)
        plan_jobs(model.bundle, model.dataset, self._options)
        return model

    def _loaded(self, path: Path) -> Dataset:
        if path not in self._loads:
            self._loads[path] = Dataset.load(path)
        return self._loads[path]

    def _dataset(self, path: Path) -> DatasetRecord:
        if path not in self._datasets:
            digest = dataset_digest(path)
            self._progress(f"leaks of {path.name}", 0, 1)
            file = self._file(f"data-{slug(path.resolve().name)}-{digest_of(digest, self._options.seed)}")
            record = describe_dataset(self._loaded(path), path, digest, self._options, file)
            self._datasets[path] = record
            if record.digest not in {known.digest for known in self._results.datasets}:
                self._keep(datasets=(*self._results.datasets, record))
        return self._datasets[path]

    def _file(self, name: str) -> MeasuredFile:
        return MeasuredFile(self._out / MEASURED_FOLDER / f"{name}.json")

    def _peer(self, peer: PeerInput) -> None:
        data = self._dataset(peer.data)
        record, notes = score_peer(peer.file, self._loaded(peer.data), data.digest, self._options)
        if any((known.digest, known.dataset) == (record.digest, record.dataset) for known in self._results.peers):
            raise ConfigError(f"{peer.file} was given before: the same lists are not another seed")
        self._keep(peers=(*self._results.peers, record), notes=(*self._results.notes, *notes))

    def _model(self, model: Model) -> None:
        label, data = model.given.label, self._dataset(model.given.data)
        digest = manifest_digest(model.given.bundle)
        file = self._file(f"{slug(label)}-{digest_of(label, digest, data.digest, self._options.measuring())}")
        record = file.load(ModelRecord)
        if record is None:
            record = new_record(model, digest, data.digest, self._results.environment, self._options)
        before = self._results.models

        def keep(current: ModelRecord) -> None:
            self._keep(models=(*before, current))

        keep(record)
        measure_model(record, model, self._options, file, self._progress, keep)

    def _keep(self, **changes: object) -> None:
        self._results = dataclasses.replace(self._results, **changes)  # type: ignore[arg-type]
        self._results.save(self._out)
