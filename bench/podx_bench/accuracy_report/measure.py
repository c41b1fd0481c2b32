"""Measuring one bundle: a process of its own, fixed threads, every measurement kept as soon as it is made."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task, Template, bare_template
from podx_bench.accuracy import as_lists, item_numbers, text_metrics
from podx_bench.accuracy_report.options import ModelInput, StudyOptions
from podx_bench.accuracy_report.rates import list_metrics
from podx_bench.accuracy_report.records import CONSTRAINED, TEXT, UNCONSTRAINED, MeasuredFile, Measurement, ModelRecord
from podx_bench.engines import OURS, EngineContext
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.workload.facts import model_facts
from podx_bench.workload.matching import require_match
from podx_bench.workload.scenarios import Workload, build_workload, choose_tasks
from podx_bench.workload.work import Answer, write_work
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
Keep = Callable[[ModelRecord], None]
"""Called with the record after every measurement."""


@dataclass(frozen=True)
class Job:
    """One measurement to be made."""

    task: Task
    decoding: str
    users: int


def plan_jobs(bundle: Bundle, dataset: Dataset, options: StudyOptions) -> list[Job]:
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
    model: ModelInput,
    bundle: Bundle,
    dataset: Dataset,
    digests: tuple[str, str],
    environment: Mapping[str, Any],
    options: StudyOptions,
) -> ModelRecord:
    """The record of a model that nothing was measured of. ``digests``: of its manifest and its data."""
    manifest = bundle.manifest
    training = manifest.provenance.get("training") or {}
    own = training.get("options") or {}
    facts: dict[str, Any] = {name: training.get(name) for name in TRAINING_FACTS}
    facts["options"] = {name: own[name] for name in TRAINING_OPTIONS if name in own}
    kept = {
        task.value: text
        for task in manifest.tasks
        if (text := manifest.templates.get(task)) and Template.parse(task, text) != bare_template(task)
    }
    return ModelRecord(
        label=model.label,
        digest=digests[0],
        dataset=digests[1],
        scheme=dataset.scheme,
        facts=model_facts(bundle),
        training=facts,
        templates=kept,
        environment=environment,
        options=options.measuring(),
    )


def measure_model(
    record: ModelRecord,
    model: ModelInput,
    bundle: Bundle,
    dataset: Dataset,
    options: StudyOptions,
    file: MeasuredFile,
    progress: Progress,
    keep: Keep,
) -> ModelRecord:
    """Make the measurements that a record lacks; each is in ``file`` and told to ``keep`` once it is made.

    Raises:
        EngineError: the model's process failed.
        ConfigError, DataError: see :func:`plan_jobs`.
    """
    missing = [job for job in plan_jobs(bundle, dataset, options) if not record.find(job.task, job.decoding, job.users)]
    for task, decoding in dict.fromkeys((job.task, job.decoding) for job in missing):
        jobs = [job for job in missing if (job.task, job.decoding) == (task, decoding)]
        workload = build_workload(task, dataset, bundle, max(job.users for job in jobs), options.seed)
        with started(jobs[0], workload, model, options) as process:
            for job in jobs:
                answers, seconds = collect(process, job, model.label, options, progress)
                metrics = answer_metrics(answers, workload.head(job.users), dataset)
                found = Measurement(task, decoding, len(answers), seconds, metrics)
                record = dataclasses.replace(record, measurements=(*record.measurements, found))
                file.save(record)
                keep(record)
    return record


@contextmanager
def started(job: Job, workload: Workload, model: ModelInput, options: StudyOptions) -> Iterator[EngineProcess]:
    """A process that has loaded the model and the requests."""
    context = model_context(job, model, options, options.batch_size)
    with tempfile.TemporaryDirectory(prefix="podx-accuracy-") as name:
        folder = Path(name)
        write_work(folder / "work.npz", workload.requests)
        with EngineProcess(model.label, context, folder / "work.npz", loads=engine_of(job)) as process:
            yield process


def model_context(job: Job, model: ModelInput, options: StudyOptions, batch_size: int | None) -> EngineContext:
    """What a model's process is made from. ``batch_size``: how it divides a call; None: a call is a batch."""
    return EngineContext(
        bundle=model.bundle,
        checkpoint=None,
        task=job.task,
        device=options.device,
        threads=options.thread_count,
        spin=False,
        beams=options.beams,
        k=LEAST_ACCURACY_K,
        batch_size=batch_size,
    )


def engine_of(job: Job) -> str:
    """The engine that a job's process loads."""
    return OURS_FREE if job.decoding == UNCONSTRAINED else OURS


def collect(
    process: EngineProcess, job: Job, label: str, options: StudyOptions, progress: Progress
) -> tuple[list[Answer], float]:
    """Answers to a job's requests, and the seconds all calls took."""
    size = options.batch_size * (1 if job.decoding == UNCONSTRAINED else BATCHES_A_CALL)
    what, seconds = f"{label}, {job.task}, {job.decoding}", 0.0
    answers: list[Answer] = []
    progress(what, 0, job.users)
    while len(answers) < job.users:
        found, taken = process.answer(range(len(answers), min(job.users, len(answers) + size)))
        answers += found
        seconds += taken
        progress(what, len(answers), job.users)
    return answers, seconds


def answer_metrics(answers: Sequence[Answer], workload: Workload, dataset: Dataset) -> dict[str, float]:
    """The metrics of a :class:`podx_bench.accuracy_report.records.Measurement`."""
    if workload.task is Task.EXPLANATION:
        return text_metrics([answer.text or "" for answer in answers], workload.references)
    return list_metrics(as_lists(answers, item_numbers(dataset), LEAST_ACCURACY_K), workload, dataset)
