"""Time per user of all models of a run, taken in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from podx.bundle.bundle import Bundle
from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy_report.measure import Job, engine_of, model_context
from podx_bench.accuracy_report.options import ModelInput, StudyOptions
from podx_bench.accuracy_report.records import CONSTRAINED, TEXT, MeasuredFile, ModelRecord, TimingRecord
from podx_bench.engines.process import EngineProcess
from podx_bench.latency.speed import Cell, measure_cell
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_bench.workload.work import write_work
from podx_train.data.dataset import Dataset

DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Timed:
    """A model that takes part."""

    record: ModelRecord
    model: ModelInput
    bundle: Bundle
    dataset: Dataset


def first_seeds(models: Sequence[Timed]) -> list[Timed]:
    """One model of each label and dataset: seeds of a method do the same work."""
    found: dict[tuple[str, str], Timed] = {}
    for one in models:
        found.setdefault((one.record.label, one.record.dataset), one)
    return list(found.values())


def time_all(
    models: Sequence[Timed], options: StudyOptions, file_of: Callable[[str], MeasuredFile], tell: Callable[[str], None]
) -> list[TimingRecord]:
    """Time every task on all models that have it; what an earlier run timed on the very same models is taken from it.

    Raises:
        EngineError: a model's process failed.
    """
    records = []
    for task in ALL_TASKS:
        own = [one for one in first_seeds(models) if task in choose_tasks(one.bundle, one.dataset, options.tasks)]
        if not own:
            continue
        key = json.dumps([task, [one.record.key for one in own], options.measuring(), options.timing()], sort_keys=True)
        file = file_of(f"timing-{task}-{hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]}")
        record = file.load(TimingRecord)
        if record is None:
            tell(f"{task}: time {len(own)} models in turns")
            record = time_models(task, own, options)
            file.save(record)
        records.append(record)
    return records


def time_models(task: Task, models: Sequence[Timed], options: StudyOptions) -> TimingRecord:
    """Time a task on models whose processes wait while another's runs."""
    with tempfile.TemporaryDirectory(prefix="podx-accuracy-") as name, ExitStack() as stack:
        folder, users = Path(name), options.timed_users
        processes = {}
        for number, one in enumerate(models):
            workload = build_workload(task, one.dataset, one.bundle, options.timed_users, options.seed)
            users = min(users, len(workload))
            work = folder / f"work{number}.npz"
            write_work(work, workload.requests)
            job = Job(task, TEXT if task is Task.EXPLANATION else CONSTRAINED, users)
            context = model_context(job, one.model, options, None)
            process = EngineProcess(one.model.label, context, work, loads=engine_of(job))
            processes[one.record.key] = stack.enter_context(process)
        cell = Cell(task, min(users, options.batch_size), users)
        found = measure_cell(cell, processes, options.rounds, lambda: False)
    times = {record.engine: record.ms_per_user for record in found}
    rounds = {record.engine: list(record.round_ms) for record in found}
    return TimingRecord(task, cell.batch_size, users, options.rounds, times, rounds)
