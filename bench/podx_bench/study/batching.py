"""Task-alternated against sample-mixed training, each at its largest batch (POD paper, section 5.4, Table 5)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.errors import ConfigError
from podx_bench.accuracy_report.leaks import dataset_digest
from podx_bench.harness.child import EngineError, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.harness.record_file import RecordFile
from podx_bench.study.memory import Probe, search_largest
from podx_bench.study.options import SECONDS, BatchingOptions
from podx_bench.study.step import MEMORY, TIME, StepPlan
from podx_bench.study.strategies import STRATEGIES, BatchingResults, StrategyRecord
from podx_bench.study.sweep import OWN_OPTIONS, refuse_options
from podx_bench.study.train import LOG_FILE, PODX, SAID_CHARACTERS, run_logged
from podx_bench.workload.facts import dataset_facts
from podx_train.checkpoint.checkpoint import CONFIG_FILE, TRAINING_FILE
from podx_train.data.dataset import Dataset

BASE_FOLDER, MEASURED_FOLDER = "base", "measured"
DIGEST_LENGTH = 12
MEGABYTES = 1e3
"""In a GB (10^9 bytes)."""
OWN = (*OWN_OPTIONS, "--batching", "--batch-size", "--epochs", "--updates")
TEMPLATES_OPTION = "--templates"
KILLED = -9

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def run_batching(
    data: Path,
    out: Path,
    options: BatchingOptions,
    extra: Sequence[str] = (),
    progress: Progress = lambda *_: None,
) -> BatchingResults:
    """Measure what earlier calls into ``out`` have not measured yet, and write ``study.json``.

    Args:
        extra: options of podx train for both strategies.

    Raises:
        ConfigError: options conflict. DataError: the dataset cannot be read. EngineError: a process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    refuse_options(extra, OWN)
    return _Run(data, out, options, tuple(extra), progress).all()


@dataclass
class _Found:
    """What is known of a strategy so far."""

    largest: Probe | None = None
    above: Probe | None = None
    probes: tuple[Probe, ...] = ()
    rounds: tuple[Mapping[str, Any], ...] = ()


class _Run:
    """A study under way."""

    def __init__(
        self, data: Path, out: Path, options: BatchingOptions, extra: tuple[str, ...], progress: Progress
    ) -> None:
        self._data, self._out, self._options, self._extra, self._progress = data, out, options, extra, progress
        self._dataset = Dataset.load(data)
        key = json.dumps([extra, options.device, options.thread_count, dataset_digest(data)])
        self._digest = hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]
        self._environment = thread_environment(options.thread_count, spin=False)
        budget = float("inf") if options.budget_minutes is None else options.budget_minutes * SECONDS
        self._end = time.monotonic() + budget
        self._found = {name: _Found() for name in STRATEGIES}
        self._notes: list[str] = []

    def all(self) -> BatchingResults:
        """The largest batches, then the times, strategies in turns."""
        self._make_base()
        for name in STRATEGIES:
            self._search(name)
        if all(found.largest for found in self._found.values()):
            for turn in range(1 if self._options.full_epoch else self._options.rounds):
                order = STRATEGIES if turn % 2 == 0 else STRATEGIES[::-1]
                if not all(self._time(name, turn) for name in order):
                    self._note("the budget ended before all rounds were timed: the same command again goes on")
                    break
        results = self._results()
        results.save(self._out)
        return results

    @property
    def _base(self) -> Path:
        return self._out / f"{BASE_FOLDER}-{self._digest}"

    def _make_base(self) -> None:
        """An untrained checkpoint: the tokeniser, and the study's options as podx train reads them."""
        if (self._base / CONFIG_FILE).exists() and (self._base / TRAINING_FILE).exists():
            return
        self._out.mkdir(parents=True, exist_ok=True)
        self._progress("make the model", 0, 1)
        given = ("--resume", "--epochs", "0", "--device", self._options.device, *self._extra)
        command = [*PODX, "train", str(self._data), "--out", str(self._base), *given]
        status, said, _ = run_logged(command, self._out / LOG_FILE, self._environment)
        if status != 0:
            raise EngineError(f"podx train refuses: {said[-SAID_CHARACTERS:].strip()}")

    def _search(self, name: str) -> None:
        """The largest batch of a strategy that fits."""
        found, budget = self._found[name], self._options.memory_gb * MEGABYTES

        def measure(size: int) -> Probe | None:
            self._progress(f"{name}: memory of batch size {size}", 0, 1)
            said = self._step(self._plan(name, size, do=MEMORY))
            if said is None:
                return None
            probe = Probe(size, said["peak_mb"])
            found.probes = (*found.probes, probe)
            self._results().save(self._out)
            return probe

        found.largest, found.above, ended = search_largest(measure, budget, self._most(), self._options.closeness)
        if not ended:
            self._note(f"{name}: the budget ended before its largest batch was found: the same command again goes on")
        elif found.largest is None:
            self._note(f"{name}: not even one record fits into {self._options.memory_gb:g} GB")
        elif found.above is None:
            self._note(f"{name}: even a batch of {found.largest.batch_size:,}, all records there are, fits")

    def _most(self) -> int:
        """More records than this no batch can have."""
        dataset = self._dataset
        return 2 * dataset.interaction_count + len(dataset.explanations["train"])

    def _plan(self, name: str, size: int, do: str, first: int = 0) -> StepPlan:
        whole = self._options.full_epoch or do == MEMORY
        templates = None
        for place, text in enumerate(self._extra):
            if text.startswith(TEMPLATES_OPTION):
                templates = text.partition("=")[2] or self._extra[place + 1]
        updates = None if whole else self._options.updates
        return StepPlan(do, str(self._data), str(self._base), templates, name, size, first, updates)

    def _time(self, name: str, turn: int) -> bool:
        """Time a turn of a strategy; False: there is no time left."""
        found = self._found[name]
        if found.largest is None:
            return False
        self._progress(f"{name}: time batch size {found.largest.batch_size}, round {turn + 1}", 0, 1)
        plan = self._plan(name, found.largest.batch_size, do=TIME, first=turn * self._options.updates)
        said = self._step(plan)
        if said is None:
            return False
        if said["peak_mb"] is None:
            raise EngineError(
                f"{name} ran out of memory with a batch of {plan.batch_size}, which fitted before: try again"
            )
        found.rounds = (*found.rounds, said)
        self._results().save(self._out)
        return True

    def _step(self, plan: StepPlan) -> dict[str, Any] | None:
        """What a fresh process measures, or measured in an earlier call; None: there is no time left."""
        asked = dataclasses.asdict(plan)
        key = json.dumps([self._digest, {name: asked[name] for name in asked if name not in ("data", "base")}])
        digest = hashlib.sha256(key.encode()).hexdigest()[:DIGEST_LENGTH]
        file = RecordFile(
            f"{plan.batching}-{plan.batch_size}-{plan.do}-{digest}.json", "podx-study-step", 1, "podx study"
        )
        path = self._out / MEASURED_FOLDER / file.name
        if path.exists():
            return file.read(path)
        if time.monotonic() >= self._end:
            return None
        said = run_step(plan, self._environment)
        file.write(path.parent, said)
        return said

    def _note(self, note: str) -> None:
        self._notes.append(note)

    def _results(self) -> BatchingResults:
        options = self._options
        return BatchingResults(
            environment=describe(options.device, options.threads),
            options=options.as_json(),
            extra=self._extra,
            dataset=dataset_facts(self._dataset, self._data),
            strategies=tuple(self._record(name) for name in STRATEGIES),
            notes=tuple(self._notes),
        )

    def _record(self, name: str) -> StrategyRecord:
        found = self._found[name]
        probes = tuple((probe.batch_size, probe.peak_mb) for probe in found.probes)
        return StrategyRecord(
            name=name,
            batch_size=None if found.largest is None else found.largest.batch_size,
            peak_mb=None if found.largest is None else found.largest.peak_mb,
            too_large=None if found.above is None else found.above.batch_size,
            probes=probes,
            rounds=found.rounds,
        )


def run_step(plan: StepPlan, environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure in a fresh process; a process that the system killed for its memory ran out of it.

    Raises:
        EngineError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="podx-study-") as name:
        file = Path(name) / "plan.json"
        plan.write(file)
        command = [sys.executable, "-m", "podx_bench.study.step", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, env=dict(environment), check=False)
    if ended.returncode == KILLED:
        return {"peak_mb": None}
    if ended.returncode != 0:
        raise EngineError(f"training steps cannot be measured: {ended.stderr[-SAID_CHARACTERS:].strip()}")
    said: dict[str, Any] = json.loads(ended.stdout)
    return said
