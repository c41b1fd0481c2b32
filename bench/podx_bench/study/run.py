"""One run: models, peers and datasets in, ``accuracy.json`` out, kept after every measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from podx.bundle import MANIFEST_FILE, Bundle
from podx.errors import ConfigError
from podx_bench.environment import describe
from podx_bench.options import BenchOptions
from podx_bench.study.leaks import dataset_digest, describe_dataset
from podx_bench.study.measure import Progress, measure_model, new_record, plan_jobs, require_same_data
from podx_bench.study.options import ModelInput, PeerInput, StudyOptions, slug
from podx_bench.study.peers import score_peer
from podx_bench.study.records import DatasetRecord, MeasuredFile, ModelRecord, Study
from podx_train.data.dataset import Dataset

MEASURED_FOLDER = "measured"
DIGEST_LENGTH = 12


def run_study(
    models: Sequence[ModelInput],
    peers: Sequence[PeerInput],
    out: Path,
    options: StudyOptions,
    progress: Progress = lambda *_: None,
) -> Study:
    """Measure what earlier runs into ``out`` have not measured yet.

    Raises:
        ConfigError: nothing is given, bundle and dataset do not belong together, or a task is not in the bundle.
        DataError, BundleError: what was given cannot be read, or a peer's lists are not about the dataset.
        EngineError: a model's process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    if not models and not peers:
        raise ConfigError("nothing to measure: give models as LABEL=BUNDLE@DATA, or a --peer")
    return _Run(out, options, progress).all(models, peers)


def manifest_digest(bundle: Path) -> str:
    """Hex digest of a bundle's manifest, which names the digest of every file."""
    return hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()


class _Run:
    """A run under way: the study so far, on disk after every change."""

    def __init__(self, out: Path, options: StudyOptions, progress: Progress) -> None:
        self._out, self._options, self._progress = out, options, progress
        self._loads: dict[Path, Dataset] = {}
        self._datasets: dict[Path, DatasetRecord] = {}
        bench = BenchOptions(device=options.device, threads=options.threads)
        self._study = Study(describe(bench), options.as_json())

    def all(self, models: Sequence[ModelInput], peers: Sequence[PeerInput]) -> Study:
        bundles = [self._checked(model) for model in models]  # before anything takes long
        for peer in peers:
            self._peer(peer)
        for model, bundle in zip(models, bundles, strict=True):
            self._model(model, bundle)
        return self._study

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
        self._file(f"peer-{slug(record.label)}-{record.digest[:DIGEST_LENGTH]}").save(record)
        self._keep(peers=(*self._study.peers, record), notes=(*self._study.notes, *notes))

    def _model(self, model: ModelInput, bundle: Bundle) -> None:
        dataset, data = self._dataset(model.data)
        digest = manifest_digest(model.bundle)
        if any((one.label, one.digest) == (model.label, digest) for one in self._study.models):
            raise ConfigError(f"{model.label}: {model.bundle} is a copy of a bundle given before, not another seed")
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
