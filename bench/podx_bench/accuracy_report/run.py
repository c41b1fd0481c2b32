"""One run: models, peers and datasets in, ``accuracy.json`` out, kept after every measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.errors import ConfigError
from podx_bench.accuracy_report.leaks import dataset_digest, describe_dataset
from podx_bench.accuracy_report.measure import Progress, measure_model, new_record, plan_jobs, require_same_data
from podx_bench.accuracy_report.options import MODEL_FORM, ModelInput, PeerInput, StudyOptions, slug
from podx_bench.accuracy_report.peers import score_peer
from podx_bench.accuracy_report.records import DatasetRecord, MeasuredFile, ModelRecord, Study
from podx_bench.accuracy_report.timing import Timed, time_all
from podx_bench.harness.environment import describe
from podx_train.data.dataset import Dataset

MEASURED_FOLDER = "measured"
DIGEST_LENGTH = 12


def run_study(
    models: Sequence[ModelInput],
    peers: Sequence[PeerInput],
    out: Path,
    options: StudyOptions,
    progress: Progress = lambda *_: None,
    data: Sequence[Path] = (),
) -> Study:
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


class _Run:
    """A run under way: the study so far, on disk after every change."""

    def __init__(self, out: Path, options: StudyOptions, progress: Progress) -> None:
        self._out, self._options, self._progress = out, options, progress
        self._loads: dict[Path, Dataset] = {}
        self._datasets: dict[Path, DatasetRecord] = {}
        self._study = Study(describe(options.device, options.threads), options.as_json())

    def all(self, models: Sequence[ModelInput], peers: Sequence[PeerInput], data: Sequence[Path]) -> Study:
        bundles = [self._checked(model) for model in models]  # before anything takes long
        refuse_copies(models)
        for path in data:
            self._dataset(path)
        for peer in peers:
            self._peer(peer)
        for model, bundle in zip(models, bundles, strict=True):
            self._model(model, bundle)
        if self._options.timed_users and models:
            self._time(models, bundles)
        return self._study

    def _time(self, models: Sequence[ModelInput], bundles: Sequence[Bundle]) -> None:
        rows = zip(self._study.models, models, bundles, strict=True)
        timed = [Timed(record, model, bundle, self._loaded(model.data)) for record, model, bundle in rows]
        found = time_all(timed, self._options, self._file, lambda what: self._progress(what, 0, 1))
        self._keep(timings=tuple(found))

    def _checked(self, model: ModelInput) -> Bundle:
        bundle = Bundle.load(model.bundle)
        dataset = self._loaded(model.data)
        require_same_data(bundle, dataset, model.label)
        plan_jobs(bundle, dataset, self._options)
        return bundle

    def _dataset(self, path: Path) -> tuple[Dataset, DatasetRecord]:
        dataset = self._loaded(path)
        if path not in self._datasets:
            digest = dataset_digest(path)
            self._progress(f"leaks of {path.name}", 0, 1)
            own = hashlib.sha256(f"{digest} {self._options.seed}".encode()).hexdigest()
            file = self._file(f"data-{slug(path.resolve().name)}-{own[:DIGEST_LENGTH]}")
            record = describe_dataset(dataset, path, digest, self._options, file)
            self._datasets[path] = record
            if record.digest not in {known.digest for known in self._study.datasets}:
                self._keep(datasets=(*self._study.datasets, record))
        return dataset, self._datasets[path]

    def _loaded(self, path: Path) -> Dataset:
        if path not in self._loads:
            self._loads[path] = Dataset.load(path)
        return self._loads[path]

    def _file(self, name: str) -> MeasuredFile:
        return MeasuredFile(self._out / MEASURED_FOLDER, f"{name}.json")

    def _peer(self, peer: PeerInput) -> None:
        dataset, data = self._dataset(peer.data)
        record, notes = score_peer(peer.file, dataset, data.digest, self._options)
        if any((one.digest, one.dataset) == (record.digest, record.dataset) for one in self._study.peers):
            raise ConfigError(f"{peer.file} was given before: the same lists are not another seed")
        self._file(f"peer-{slug(record.label)}-{record.digest[:DIGEST_LENGTH]}").save(record)
        self._keep(peers=(*self._study.peers, record), notes=(*self._study.notes, *notes))

    def _model(self, model: ModelInput, bundle: Bundle) -> None:
        dataset, data = self._dataset(model.data)
        digest = manifest_digest(model.bundle)
        key = json.dumps([model.label, digest, data.digest, self._options.measuring()], sort_keys=True)
        file = self._file(f"{slug(model.label)}-{hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]}")
        record = file.load(ModelRecord)
        if record is None:
            digests = (digest, data.digest)
            record = new_record(model, bundle, dataset, digests, self._study.environment, self._options)
        before = self._study.models

        def keep(current: ModelRecord) -> None:
            self._keep(models=(*before, current))

        keep(record)
        measure_model(record, model, bundle, dataset, self._options, file, self._progress, keep)

    def _keep(self, **changes: object) -> None:
        self._study = dataclasses.replace(self._study, **changes)  # type: ignore[arg-type]
        self._study.save(self._out)
