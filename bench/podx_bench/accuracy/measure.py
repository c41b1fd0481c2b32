"""Measuring bundles: a process for each, fixed threads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task, Template, bare_template
from podx_bench.accuracy.metrics import answer_metrics, collect_answers
from podx_bench.accuracy.options import AccuracyOptions, ModelInput
from podx_bench.accuracy.records import CONSTRAINED, TEXT, UNCONSTRAINED, Measurement, ModelRecord, TimingRecord
from podx_bench.engines import OURS, EngineContext
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.latency.speed import Cell, measure_cell
from podx_bench.workload.inputs import model_facts, require_match
from podx_bench.workload.scenarios import Workload, build_workload, choose_tasks
from podx_train.data.dataset import Dataset

OURS_FREE = "podx-unconstrained"
BATCHES_A_CALL = 8
"""A call brings so many batches, which podx sorts by length; between calls progress is told."""
TRAINING_FACTS = ("seed", "updates", "train_seconds", "best_epoch", "environment", "options")

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many users are done, and how many there are."""


class Model(NamedTuple):
    """A bundle that was opened, and the dataset it is measured on."""

    given: ModelInput
    bundle: Bundle
    dataset: Dataset


class Job(NamedTuple):
    """One measurement to be made."""

    task: Task
    decoding: str
    users: int


def plan_jobs(model: Model, options: AccuracyOptions) -> list[Job]:
    """All measurements of a model. Free search comes with the constrained one on the same users beside it.

    Raises:
        ConfigError, DataError: a task asked for is not in the bundle, or not in the data.
    """
    jobs = []
    for task in choose_tasks(model.bundle, model.dataset, options.tasks):
        texts = task is Task.EXPLANATION
        total = len(model.dataset.explanations["test"]) if texts else model.dataset.user_count
        users = min(total, options.limit(task) or total)
        jobs.append(Job(task, TEXT if texts else CONSTRAINED, users))
        if not texts and (free := min(users, options.unconstrained_users)):
            jobs += [Job(task, CONSTRAINED, free), Job(task, UNCONSTRAINED, free)]
    return list(dict.fromkeys(jobs))


def require_same_data(model: Model) -> None:
    """Raise a ConfigError where a bundle was made from other ids, numbers or sequences than its dataset's."""
    users, dataset, label = model.bundle.users, model.dataset, model.given.label
    try:
        require_match(model.bundle, dataset)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None
    if not (np.array_equal(users.items, dataset.items) and np.array_equal(users.offsets, dataset.offsets)):
        raise ConfigError(
            f"{label}: the bundle's users have other items than the dataset's, under the same ids: give the dataset "
            f"folder that the model was trained on"
        )


def new_record(
    model: Model, digest: str, data_digest: str, environment: Mapping[str, Any], options: AccuracyOptions
) -> ModelRecord:
    """The record of a model that nothing was measured of. ``digest``: of its manifest; ``data_digest``: of its data."""
    manifest = model.bundle.manifest
    training = manifest.provenance.get("training") or {}
    templates = {task: manifest.templates.get(task) for task in manifest.tasks}
    return ModelRecord(
        label=model.given.label,
        digest=digest,
        dataset=data_digest,
        scheme=model.dataset.scheme,
        facts=model_facts(model.bundle),
        training={name: training.get(name) for name in TRAINING_FACTS},
        templates={t.value: x for t, x in templates.items() if x and Template.parse(t, x) != bare_template(t)},
        environment=environment,
        options=options.measuring(),
    )


def measure_model(
    record: ModelRecord, model: Model, options: AccuracyOptions, progress: Progress
) -> Iterator[ModelRecord]:
    """The record with each measurement that it lacks, as soon as it is made; EngineError where a process failed."""
    missing = [job for job in plan_jobs(model, options) if not record.find(*job)]
    for (task, decoding), group in itertools.groupby(missing, lambda job: job[:2]):
        jobs = list(group)
        workload = build_workload(task, model.dataset, model.bundle, max(job.users for job in jobs), options.seed)
        with _started(model, workload, options, options.batch_size, decoding) as process:
            for job in jobs:
                measurement = measure_job(job, process, workload, model, options, progress)
                record = dataclasses.replace(record, measurements=(*record.measurements, measurement))
                yield record


def measure_job(
    job: Job, process: EngineProcess, workload: Workload, model: Model, options: AccuracyOptions, progress: Progress
) -> Measurement:
    """Ask a model's process, and score its answers."""
    what = f"{model.given.label}, {job.task}, {job.decoding}"
    progress(what, 0, job.users)
    size = options.batch_size * (1 if job.decoding == UNCONSTRAINED else BATCHES_A_CALL)
    answers, seconds = collect_answers(process, job.users, size, lambda done: progress(what, done, job.users))
    metrics = answer_metrics(answers, workload, model.dataset)
    return Measurement(job.task.value, job.decoding, len(answers), seconds, metrics)


def time_models(task: Task, models: Mapping[str, Model], options: AccuracyOptions) -> TimingRecord:
    """Time a task on all models in turns, so that a machine that slows down slows all of them.

    ``models``: by the key of their record; one of each method, for its seeds do the same work.
    """
    with ExitStack() as stack:
        users, processes = options.timed_users, {}
        for key, model in models.items():
            workload = build_workload(task, model.dataset, model.bundle, options.timed_users, options.seed)
            users = min(users, len(workload))
            processes[key] = stack.enter_context(_started(model, workload, options))
        cell = Cell(task, min(users, options.batch_size), users)
        records = measure_cell(cell, processes, options.rounds, lambda: False)
    times = {record.engine: record.ms_per_user for record in records}
    return TimingRecord(task.value, cell.batch_size, users, options.rounds, times)


def _started(
    model: Model, workload: Workload, options: AccuracyOptions, batch_size: int | None = None, decoding: str = ""
) -> EngineProcess:
    """A process with the model and the requests. ``batch_size``: how it divides a call; None: a call is a batch."""
    context = EngineContext(
        bundle=model.given.bundle,
        task=workload.task,
        device=options.device,
        threads=options.thread_count,
        beams=options.beams,
        k=LEAST_ACCURACY_K,
        batch_size=batch_size,
    )
    loads = OURS_FREE if decoding == UNCONSTRAINED else OURS
    return EngineProcess(model.given.label, context, workload.requests, loads=loads)
