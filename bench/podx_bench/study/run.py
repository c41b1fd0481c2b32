"""A sweep: trains every value, exports it, measures it, and keeps all that is finished for the next call."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from podx.errors import ConfigError
from podx_bench.accuracy_report.leaks import dataset_digest
from podx_bench.accuracy_report.options import ModelInput, slug
from podx_bench.accuracy_report.records import Study
from podx_bench.accuracy_report.run import run_study
from podx_bench.harness.child import EngineError, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.study.options import CPU, SECONDS, RunOptions
from podx_bench.study.record import PointRecord, SweepResults, with_measurements
from podx_bench.study.sweep import Point, Sweep
from podx_bench.study.train import (
    CHECKPOINT_FOLDER,
    CUT,
    FAILED,
    FINISHED,
    LOG_FILE,
    PODX,
    SAID_CHARACTERS,
    WAITING,
    Outcome,
    run_logged,
    run_training,
)
from podx_bench.workload.facts import dataset_facts
from podx_train.data.dataset import Dataset

RUNS_FOLDER, ACCURACY_FOLDER = "runs", "accuracy"
DIGEST_LENGTH = 12
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def run_sweep(
    sweep: Sweep,
    data: Path,
    out: Path,
    options: RunOptions,
    extra: Sequence[str] = (),
    progress: Progress = lambda *_: None,
) -> SweepResults:
    """Train and measure what earlier calls into ``out`` have not finished, and write ``study.json``.

    Args:
        extra: options of podx train for every value.

    Raises:
        ConfigError: options conflict. DataError: the dataset cannot be read.
        EngineError: every training failed, or a bundle could not be measured.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    sweep.refuse(extra)
    return _Run(sweep, data, out, options, tuple(extra), progress).all()


def gpu_names(jobs: int) -> list[str]:
    """What stands for each job's GPU in CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: there are fewer GPUs than jobs.
    """
    given = os.environ.get(DEVICES_VARIABLE)
    if given is not None:
        names = [name.strip() for name in given.split(",") if name.strip()]
    else:
        from torch import cuda  # late, for it is long in coming

        names = [str(number) for number in range(cuda.device_count())]
    if len(names) < jobs:
        raise ConfigError(f"--jobs {jobs} needs as many GPUs, there are {len(names)}: give fewer jobs, or --device cpu")
    return names[:jobs]


class _Run:
    """A sweep under way."""

    def __init__(
        self, sweep: Sweep, data: Path, out: Path, options: RunOptions, extra: tuple[str, ...], progress: Progress
    ) -> None:
        self._sweep, self._data, self._out = sweep, data, out
        self._options, self._extra, self._progress = options, extra, progress
        self._facts = dataset_facts(Dataset.load(data), data)
        self._digest = dataset_digest(data)
        self._outcomes: dict[tuple[str, ...], Outcome] = {}
        self._slots: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in [""] * options.jobs if options.device == CPU else gpu_names(options.jobs):
            self._slots.put(name)
        budget = float("inf") if options.budget_minutes is None else options.budget_minutes * SECONDS
        self._end = time.monotonic() + budget
        self._measured: Study | None = None

    def all(self) -> SweepResults:
        """Train, export, measure."""
        wanted = list(dict.fromkeys(point.train for point in self._sweep.points))
        with ThreadPoolExecutor(self._options.jobs) as pool:
            for number, (key, outcome) in enumerate(
                zip(wanted, pool.map(self._train, wanted), strict=True)
            ):  # in order; each is shown as soon as those before it are done
                self._outcomes[key] = outcome
                self._progress("trainings", number + 1, len(wanted))
                self._results().save(self._out)
        if all(outcome.state == FAILED for outcome in self._outcomes.values()):
            said = next(iter(self._outcomes.values())).said
            raise EngineError(f"every training failed; the first one said: {said}")
        models = [self._bundle(point) for point in self._sweep.points if self._is(point, FINISHED)]
        if models:
            self._measured = run_study(
                models, (), self._out / ACCURACY_FOLDER, self._options.measuring(timed=True), self._progress
            )
        results = self._results()
        results.save(self._out)
        return results

    def _is(self, point: Point, state: str) -> bool:
        return self._outcomes[point.train].state == state

    def _folder(self, train: tuple[str, ...]) -> Path:
        """Of a training: its name tells all that its result depends on, so other options never meet its files."""
        key = json.dumps([train, self._extra, self._options.minutes_per_run, self._options.device, self._digest])
        label = slug("-".join(text.strip("-") for text in train) or "training")
        return self._out / RUNS_FOLDER / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]}"

    def _environment(self, slot: str) -> Mapping[str, str]:
        environment = thread_environment(self._options.training_threads, spin=False)
        return environment | ({DEVICES_VARIABLE: slot} if slot else {})

    def _train(self, train: tuple[str, ...]) -> Outcome:
        slot = self._slots.get()
        try:
            arguments = ("--device", self._options.device, *self._extra, *train)
            minutes, left = self._options.minutes_per_run, self._end - time.monotonic()
            return run_training(self._folder(train), self._data, arguments, minutes, left, self._environment(slot))
        finally:
            self._slots.put(slot)

    def _bundle(self, point: Point) -> ModelInput:
        """Export a point's checkpoint, unless that was done."""
        folder = self._folder(point.train)
        bundle = folder / "-".join(["bundle", *(text.strip("-") for text in point.export)])
        if not bundle.exists():
            self._progress(f"export {point.label}", 0, 1)
            command = [*PODX, "export", str(folder / CHECKPOINT_FOLDER), "--out", str(bundle), *point.export]
            status, said, _ = run_logged(command, folder / LOG_FILE, self._environment(""))
            if status != 0:
                raise EngineError(
                    f"the export of {point.label} failed ({folder / LOG_FILE}): {said[-SAID_CHARACTERS:].strip()}"
                )
        return ModelInput(point.label, bundle, self._data)

    def _results(self) -> SweepResults:
        options = self._options
        return SweepResults(
            sweep={name: getattr(self._sweep, name) for name in ("name", "title", "axis", "note")},
            environment=describe(options.device, options.threads),
            options=options.as_json(),
            extra=self._extra,
            dataset=self._facts,
            points=tuple(self._point(point) for point in self._sweep.points),
            notes=tuple(self._notes()),
        )

    def _point(self, point: Point) -> PointRecord:
        outcome = self._outcomes.get(point.train, Outcome(WAITING, 0.0))
        record = PointRecord(point.label, point.train, point.export, outcome.state, outcome.seconds / SECONDS)
        models = {} if self._measured is None else {one.label: one for one in self._measured.models}
        if self._measured is None or point.label not in models:
            return record
        return with_measurements(record, models[point.label], self._measured)

    def _notes(self) -> list[str]:
        budget = self._options.budget_minutes
        notes = []
        for point in self._sweep.points:
            outcome = self._outcomes.get(point.train)
            if outcome is None:
                continue
            if outcome.state == FAILED:
                notes.append(f"{point.label}: training failed: {outcome.said}")
            elif outcome.state in (CUT, WAITING):
                notes.append(
                    f"{point.label}: the budget of {budget:g} minutes ended "
                    f"{'within' if outcome.state == CUT else 'before'} its training, so nothing of it was measured: "
                    f"the same command again goes on with it"
                )
        return notes
