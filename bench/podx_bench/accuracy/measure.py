"""Measuring one bundle: a process of its own, fixed threads, every measurement kept as soon as it is made."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task, Template, bare_template
from podx_bench.accuracy.metrics import answer_metrics, collect_answers
from podx_bench.accuracy.options import AccuracyOptions, ModelInput
from podx_bench.accuracy.records import CONSTRAINED, TEXT, UNCONSTRAINED, MeasuredFile, Measurement, ModelRecord
from podx_bench.engines import OURS, EngineContext
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.workload.facts import model_facts
from podx_bench.workload.matching import require_match
from podx_bench.workload.scenarios import Workload, build_workload, choose_tasks
from podx_bench.workload.work import write_work
from podx_train.data.dataset import Dataset

OURS_FREE = "podx-unconstrained"
BATCHES_A_CALL = 8
"""A call brings so many batches, which podx sorts by length; between calls progress is told."""
TRAINING_FACTS = ("seed", "updates", "train_seconds", "best_epoch", "environment")
TRAINING_OPTIONS = (
    "method", "epochs", "max_minutes", "max_updates", "batch_size", "lr", "targets", "batching", "prompts",
    "user_prompts", "adapter", "lora_rank",
)  # fmt: skip

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many users are done, and how many there are."""


@dataclass(frozen=True)
class Model:
    """A bundle that was opened, and the dataset it is measured on."""

    given: ModelInput
    bundle: Bundle
    dataset: Dataset


@dataclass(frozen=True)
class Job:
    """One measurement to be made."""

    task: Task
    decoding: str
    users: int

    @property
    def engine(self) -> str:
        """The engine that its process loads."""
        return OURS_FREE if self.decoding == UNCONSTRAINED else OURS

    def context(self, bundle: Path, options: AccuracyOptions, batch_size: int | None) -> EngineContext:
        """What its process is made from. ``batch_size``: how it divides a call; None: a call is a batch."""
        return EngineContext(
            bundle=bundle,
            checkpoint=None,
            task=self.task,
            device=options.device,
            threads=options.thread_count,
            spin=False,
            beams=options.beams,
            k=LEAST_ACCURACY_K,
            batch_size=batch_size,
        )


def plan_jobs(bundle: Bundle, dataset: Dataset, options: AccuracyOptions) -> list[Job]:
    """All measurements of a model. Free search comes with the constrained one on the same users beside it.

    Raises:
        ConfigError, DataError: a task asked for is not in the bundle, or not in the data.
    """
    jobs = []
    for task in choose_tasks(bundle, dataset, options.tasks):
        total = len(dataset.explanations["test"]) if task is Task.EXPLANATION else dataset.user_count
        users = min(total, options.limit(task) or total)
        if task is Task.EXPLANATION:
            jobs.append(Job(task, TEXT, users))
            continue
        jobs.append(Job(task, CONSTRAINED, users))
        free = min(users, options.unconstrained_users)
        jobs += [Job(task, decoding, free) for decoding in (CONSTRAINED, UNCONSTRAINED) if free]
    return list(dict.fromkeys(jobs))


def require_same_data(bundle: Bundle, dataset: Dataset, label: str) -> None:
    """Check that a bundle was made from this dataset: ids, numbers and sequences.

    Raises:
        ConfigError: with the first difference.
    """
    try:
        require_match(bundle, dataset)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None
    users = bundle.users
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
    given = training.get("options") or {}
    facts: dict[str, Any] = {name: training.get(name) for name in TRAINING_FACTS}
    facts["options"] = {name: given[name] for name in TRAINING_OPTIONS if name in given}
    kept = {
        task.value: text
        for task in manifest.tasks
        if (text := manifest.templates.get(task)) and Template.parse(task, text) != bare_template(task)
    }
    return ModelRecord(
        label=model.given.label,
        digest=digest,
        dataset=data_digest,
        scheme=model.dataset.scheme,
        facts=model_facts(model.bundle),
        training=facts,
        templates=kept,
        environment=environment,
        options=options.measuring(),
    )


def measure_model(
    record: ModelRecord,
    model: Model,
    options: AccuracyOptions,
    file: MeasuredFile,
    progress: Progress,
    keep: Callable[[ModelRecord], None],
) -> ModelRecord:
    """Make the measurements that a record lacks; each is in ``file`` and told to ``keep`` once it is made.

    Raises:
        EngineError: the model's process failed.
        ConfigError, DataError: see :func:`plan_jobs`.
    """
    planned = plan_jobs(model.bundle, model.dataset, options)
    missing = [job for job in planned if not record.find(job.task, job.decoding, job.users)]
    for task, decoding in dict.fromkeys((job.task, job.decoding) for job in missing):
        jobs = [job for job in missing if (job.task, job.decoding) == (task, decoding)]
        most = max(job.users for job in jobs)
        workload = build_workload(task, model.dataset, model.bundle, most, options.seed)
        with _started(jobs[0], workload, model.given, options) as process:
            for job in jobs:
                measurement = measure_job(job, process, workload, model, options, progress)
                record = dataclasses.replace(record, measurements=(*record.measurements, measurement))
                file.save(record)
                keep(record)
    return record


def measure_job(
    job: Job,
    process: EngineProcess,
    workload: Workload,
    model: Model,
    options: AccuracyOptions,
    progress: Progress,
) -> Measurement:
    what = f"{model.given.label}, {job.task}, {job.decoding}"
    progress(what, 0, job.users)
    size = options.batch_size * (1 if job.decoding == UNCONSTRAINED else BATCHES_A_CALL)
    answers, seconds = collect_answers(process, job.users, size, lambda done: progress(what, done, job.users))
    metrics = answer_metrics(answers, workload, model.dataset)
    return Measurement(job.task.value, job.decoding, len(answers), seconds, metrics)


@contextmanager
def _started(job: Job, workload: Workload, model: ModelInput, options: AccuracyOptions) -> Iterator[EngineProcess]:
    """A process that has loaded the model and the requests."""
    context = job.context(model.bundle, options, options.batch_size)
    with tempfile.TemporaryDirectory(prefix="podx-accuracy-") as name:
        work = Path(name) / "work.jsonl"
        write_work(work, workload.requests)
        with EngineProcess(model.label, context, work, loads=job.engine) as process:
            yield process
