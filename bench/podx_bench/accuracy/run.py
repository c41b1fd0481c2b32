"""One run: models, peers and datasets in, ``accuracy.json`` out, kept after every measurement.

Every model is measured in a process of its own, with a fixed number of threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS, Task, Template, bare_template
from podx_bench.accuracy.datasets import dataset_digest, describe_dataset, score_peer
from podx_bench.accuracy.metrics import measure
from podx_bench.accuracy.options import MODEL_FORM, AccuracyOptions, ModelInput, PeerInput, slug
from podx_bench.accuracy.records import (
    ACCURACY_FILE,
    COMMAND,
    AccuracyResults,
    DatasetRecord,
    ModelRecord,
    TimingRecord,
)
from podx_bench.engines import OURS, EngineContext
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.child import Tell
from podx_bench.harness.environment import describe
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.harness.record_file import RecordFile, digest_of
from podx_bench.harness.records import CONSTRAINED, TEXT, UNCONSTRAINED, AccuracyRecord
from podx_bench.latency.speed import Cell, measure_cell
from podx_bench.workload.inputs import model_facts, require_match
from podx_bench.workload.scenarios import Workload, build_workload, choose_tasks
from podx_train.data.dataset import Dataset

Kept = TypeVar("Kept", DatasetRecord, ModelRecord, TimingRecord)
MEASURED_FOLDER = "measured"
OURS_FREE = "podx-unconstrained"
BATCHES_A_CALL = 8
"""A call brings so many batches, which podx sorts by length; between calls progress is told."""
TRAINING_FACTS = ("seed", "updates", "train_seconds", "best_epoch", "environment", "options")


class Model(NamedTuple):
    """A bundle that was opened, the digest of its manifest, and the dataset it is measured on."""

    given: ModelInput
    bundle: Bundle
    digest: str
    dataset: Dataset


def run_accuracy(
    models: Sequence[ModelInput],
    peers: Sequence[PeerInput],
    out: Path,
    options: AccuracyOptions,
    tell: Tell = lambda _: None,
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
    return _Run(out, options, tell).all(models, peers, data)


class _Run:
    """A run under way: the results so far, on disk after every change."""

    def __init__(self, out: Path, options: AccuracyOptions, tell: Tell) -> None:
        self._out, self._options, self._tell = out, options, tell
        self._measured = out / MEASURED_FOLDER
        self._loaded, self._dataset = cache(Dataset.load), cache(self._describe)
        environment = describe(options.device, options.threads)
        self._results = AccuracyResults(environment, msgspec.to_builtins(options))

    def all(self, models: Sequence[ModelInput], peers: Sequence[PeerInput], data: Sequence[Path]) -> AccuracyResults:
        opened: dict[tuple[str, str], Model] = {}  # by label and digest, before anything takes long
        for given in models:
            bundle, digest = Bundle.load(given.bundle), file_sha256(given.bundle / MANIFEST_FILE)
            model = Model(given, bundle, digest, self._loaded(given.data))
            try:
                require_match(bundle, model.dataset)
            except ConfigError as error:
                raise ConfigError(f"{given.label}: {error}") from None
            plan_counts(model, self._options)
            if opened.setdefault((given.label, digest), model) is not model:
                raise ConfigError(f"{given.label}: {given.bundle} is a copy of a bundle given before, not another seed")
        for path in data:
            self._dataset(path)
        for peer in peers:
            self._peer(peer)
        firsts: dict[tuple[str, str], tuple[str, Model]] = {}
        for model in opened.values():
            record = self._model(model)
            firsts.setdefault((record.label, record.dataset), (record.key, model))
        if self._options.timed_users:
            self._time(dict(firsts.values()))
        return self._results

    def _describe(self, path: Path) -> DatasetRecord:
        digest = dataset_digest(path)
        self._tell(f"leaks of {path.name}")
        file = self._file(DatasetRecord, f"data-{slug(path.resolve().name)}", digest, self._options.seed)
        kept = file.kept(self._measured)
        for record in describe_dataset(self._loaded(path), path, digest, self._options, kept):
            file.write(self._measured, record)
        if record.digest not in {known.digest for known in self._results.datasets}:
            self._keep(datasets=(*self._results.datasets, record))
        return record

    def _peer(self, peer: PeerInput) -> None:
        data = self._dataset(peer.data)
        record, notes = score_peer(peer.file, self._loaded(peer.data), data.digest, self._options)
        if any((known.digest, known.dataset) == (record.digest, record.dataset) for known in self._results.peers):
            raise ConfigError(f"{peer.file} was given before: the same lists are not another seed")
        self._keep(peers=(*self._results.peers, record), notes=(*self._results.notes, *notes))

    def _model(self, model: Model) -> ModelRecord:
        """Measure what is missing of a model; the record is kept with each measurement as soon as it is made."""
        label, data, options = model.given.label, self._dataset(model.given.data), self._options
        file = self._file(ModelRecord, slug(label), label, model.digest, data.digest, options.measuring())
        record, before = file.kept(self._measured) or self._new_record(model, data.digest), self._results.models
        self._keep(models=(*before, record))
        file.write(self._measured, record)
        for measurement in self._missing(record, model):
            record = dataclasses.replace(record, measurements=(*record.measurements, measurement))
            file.write(self._measured, record)
            self._keep(models=(*before, record))
        return record

    def _new_record(self, model: Model, data_digest: str) -> ModelRecord:
        manifest = model.bundle.manifest
        training = manifest.provenance.get("training") or {}
        templates = {task: manifest.templates.get(task) for task in manifest.tasks}
        return ModelRecord(
            label=model.given.label,
            digest=model.digest,
            dataset=data_digest,
            scheme=model.dataset.scheme,
            facts=model_facts(model.bundle),
            training={name: training.get(name) for name in TRAINING_FACTS},
            templates={t.value: x for t, x in templates.items() if x and Template.parse(t, x) != bare_template(t)},
            environment=self._results.environment,
            options=self._options.measuring(),
        )

    def _missing(self, record: ModelRecord, model: Model) -> Iterator[AccuracyRecord]:
        """Make the measurements that a record lacks."""
        options = self._options

        def tell(said: str) -> None:
            self._tell(f"{model.given.label}: {said}")

        for (task, decoding), asked in plan_counts(model, options).items():
            counts = [count for count in asked if record.find(task, decoding, count) is None]
            if not counts:
                continue
            workload = build_workload(task, model.dataset, model.bundle, max(counts), options.seed)
            engine = OURS_FREE if decoding == UNCONSTRAINED else OURS
            size = options.batch_size * (BATCHES_A_CALL if engine == OURS else 1)
            with self._start(model, workload, options.batch_size, engine) as process:
                for count in counts:
                    measured, _ = measure(engine, process, workload, count, size, model.dataset, tell)
                    if measured is not None:
                        yield measured

    def _start(
        self, model: Model, workload: Workload, batch_size: int | None = None, engine: str = OURS
    ) -> EngineProcess:
        """A process with the model. ``batch_size``: how it divides a call; None: a call is a batch."""
        options = self._options
        context = EngineContext(
            model.given.bundle, workload.task, **options.engine, k=LEAST_ACCURACY_K, batch_size=batch_size
        )
        return EngineProcess(model.given.label, context, workload.requests, loads=engine)

    def _time(self, models: Mapping[str, Model]) -> None:
        """Time each task on the first seed of each method, by the key of its record."""
        options, measuring = self._options, self._options.measuring()
        for task in ALL_TASKS:
            timed = {k: m for k, m in models.items() if task in choose_tasks(m.bundle, m.dataset, options.tasks)}
            if not timed:
                continue
            turns = (options.timed_users, options.rounds)
            file = self._file(TimingRecord, f"timing-{task}", list(timed), measuring, *turns)
            record = file.kept(self._measured)
            if record is None:
                self._tell(f"{task}: time {len(timed)} models in turns")
                record = self._in_turns(task, timed)
                file.write(self._measured, record)
            self._keep(timings=(*self._results.timings, record))

    def _in_turns(self, task: Task, models: Mapping[str, Model]) -> TimingRecord:
        """All models in turns, so that a machine that slows down slows all of them."""
        options, processes = self._options, {}
        with ExitStack() as stack:
            users = options.timed_users
            for key, model in models.items():
                workload = build_workload(task, model.dataset, model.bundle, options.timed_users, options.seed)
                users = min(users, len(workload))
                processes[key] = stack.enter_context(self._start(model, workload))
            cell = Cell(task, min(users, options.batch_size), users)
            records = measure_cell(cell, processes, options.rounds, lambda: False)
        times = {record.engine: record.ms_per_user for record in records}
        return TimingRecord(task.value, cell.batch_size, users, options.rounds, times)

    def _file(self, kind: type[Kept], name: str, *marks: object) -> RecordFile[Kept]:
        """The file of one model, dataset or timing."""
        return RecordFile(f"{name}-{digest_of(*marks)}.json", "podx-accuracy-part", 1, COMMAND, kind)

    def _keep(self, **changes: object) -> None:
        self._results = dataclasses.replace(self._results, **changes)  # type: ignore[arg-type]
        ACCURACY_FILE.write(self._out, self._results)


def plan_counts(model: Model, options: AccuracyOptions) -> dict[tuple[Task, str], list[int]]:
    """Numbers of users that a model is measured on, by task and decoding.

    Free search comes with the constrained one on the same users beside it; one-pass models have none.

    Raises:
        ConfigError, DataError: a task asked for is not in the bundle, or not in the data.
    """
    counts = {}
    for task in choose_tasks(model.bundle, model.dataset, options.tasks):
        texts = task is Task.EXPLANATION
        total = len(model.dataset.explanations["test"]) if texts else model.dataset.user_count
        users = min(total, options.limit(task) or total)
        free = 0 if texts or model.bundle.manifest.one_pass else min(users, options.unconstrained_users)
        counts[task, TEXT if texts else CONSTRAINED] = [users, *([free] if 0 < free < users else [])]
        if free:
            counts[task, UNCONSTRAINED] = [free]
    return counts
