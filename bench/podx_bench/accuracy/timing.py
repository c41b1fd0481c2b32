"""Time per user of all models of a run, taken in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy.measure import Job, Model
from podx_bench.accuracy.options import AccuracyOptions
from podx_bench.accuracy.records import CONSTRAINED, TEXT, MeasuredFile, TimingRecord
from podx_bench.engines.process import EngineProcess
from podx_bench.latency.speed import Cell, measure_cell
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_bench.workload.work import write_work

DIGEST_LENGTH = 12


def time_all(
    models: Mapping[str, Model],
    options: AccuracyOptions,
    file_of: Callable[[str], MeasuredFile],
    tell: Callable[[str], None],
) -> list[TimingRecord]:
    """Time every task on all models that have it; what an earlier run timed on the very same models is taken from it.

    Args:
        models: by the key of their record; one of each method, for its seeds do the same work.

    Raises:
        EngineError: a model's process failed.
    """
    records = []
    timing = {"timed_users": options.timed_users, "rounds": options.rounds}
    for task in ALL_TASKS:
        timed = {
            key: model
            for key, model in models.items()
            if task in choose_tasks(model.bundle, model.dataset, options.tasks)
        }
        if not timed:
            continue
        mark = json.dumps([task, list(timed), options.measuring(), timing], sort_keys=True)
        file = file_of(f"timing-{task}-{hashlib.sha256(mark.encode()).hexdigest()[:DIGEST_LENGTH]}")
        record = file.load(TimingRecord)
        if record is None:
            tell(f"{task}: time {len(timed)} models in turns")
            record = _time(task, timed, options)
            file.save(record)
        records.append(record)
    return records


def _time(task: Task, models: Mapping[str, Model], options: AccuracyOptions) -> TimingRecord:
    """Time a task on models whose processes wait while another's runs."""
    with tempfile.TemporaryDirectory(prefix="podx-accuracy-") as name, ExitStack() as stack:
        users = options.timed_users
        processes = {}
        for number, (key, model) in enumerate(models.items()):
            workload = build_workload(task, model.dataset, model.bundle, options.timed_users, options.seed)
            users = min(users, len(workload))
            work = Path(name) / f"work{number}.jsonl"
            write_work(work, workload.requests)
            job = Job(task, TEXT if task is Task.EXPLANATION else CONSTRAINED, users)
            context = job.context(model.given.bundle, options, None)
            processes[key] = stack.enter_context(EngineProcess(model.given.label, context, work, loads=job.engine))
        cell = Cell(task, min(users, options.batch_size), users)
        records = measure_cell(cell, processes, options.rounds, lambda: False)
    times = {record.engine: record.ms_per_user for record in records}
    return TimingRecord(task.value, cell.batch_size, users, options.rounds, times)
