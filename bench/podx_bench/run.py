"""One run: bundle, checkpoint and dataset in, ``results.json`` out."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.bundle import Bundle, Manifest
from podx.errors import ConfigError
from podx.tasks import Task
from podx_bench import accuracy
from podx_bench.baselines import SUMMARIES
from podx_bench.engines import EngineContext, EngineKind, select
from podx_bench.environment import describe
from podx_bench.options import BenchOptions
from podx_bench.process import EngineProcess
from podx_bench.results import AccuracyRecord, Results
from podx_bench.scenarios import Workload, build_workload, choose_tasks, require_match
from podx_bench.speed import Cell, Expired, measure_cell
from podx_bench.work import Answer, write_work
from podx_train.data.dataset import Dataset

SECONDS = 60.0
Tell = Callable[[str], None]
Span = tuple[float, float]
"""Start and end on the monotonic clock, seconds."""


@dataclass(frozen=True)
class Inputs:
    """What a run is about. ``label``: its name where several are compared; None: the dataset's folder and ID scheme."""

    bundle: Path
    data: Path
    checkpoint: Path | None = None
    label: str | None = None


def run_bench(inputs: Inputs, out: Path, options: BenchOptions, tell: Tell = lambda _: None) -> Results:
    """Measure and write ``results.json`` into ``out``, anew after every cell, so that a stopped run keeps what it has.

    Raises:
        ConfigError: an engine or task is unknown, or bundle and dataset do not belong together.
        DataError, BundleError, CheckpointError: what was given cannot be read.
        DeviceError: the device is not there.
        EngineError: an engine's process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    kinds = select(options.engines, inputs.checkpoint is not None)
    bundle = Bundle.load(inputs.bundle)
    dataset = Dataset.load(inputs.data)
    require_match(bundle, dataset)
    tasks = choose_tasks(bundle, dataset, options.tasks)
    runs = [name for name, kind in kinds.items() if any(task in kind.tasks for task in tasks)]
    if len(runs) < len(kinds):
        idle = ", ".join(name for name in kinds if name not in runs)
        raise ConfigError(f"{idle} cannot do any of the tasks {', '.join(tasks)}: leave it out of --engines")
    run = _Run(inputs, out, options, kinds, bundle, dataset, tell)
    for task, span in zip(tasks, slices(_whole_span(options), len(tasks)), strict=True):
        run.task(task, span)
    return run.results


def _whole_span(options: BenchOptions) -> Span:
    start = time.monotonic()
    return start, start + (float("inf") if options.max_minutes is None else options.max_minutes * SECONDS)


def slices(span: Span, parts: int) -> list[Span]:
    """A span of time in equal parts; each ends at its own time, so a part done early leaves more to the next."""
    start, end = span
    if end == float("inf"):
        return [span] * parts
    width = (end - start) / parts
    return [(start + part * width, start + (part + 1) * width) for part in range(parts)]


def _expires(span: Span) -> Expired:
    return lambda: time.monotonic() >= span[1]


class _Run:
    """A run under way: the results so far, on disk after every change."""

    def __init__(
        self,
        inputs: Inputs,
        out: Path,
        options: BenchOptions,
        kinds: Mapping[str, EngineKind],
        bundle: Bundle,
        dataset: Dataset,
        tell: Tell,
    ) -> None:
        self._inputs, self._out, self._options, self._kinds = inputs, out, options, kinds
        self._bundle, self._dataset, self._tell = bundle, dataset, tell
        facts = _dataset_facts(dataset, inputs.data)
        tasks = choose_tasks(bundle, dataset, options.tasks)
        self.results = Results(
            label=inputs.label or f"{facts['name']} {facts['scheme']}",
            environment=describe(options),
            options={**options.as_json(), "tasks": [t.value for t in tasks], "engines": list(kinds)},
            model=_model_facts(bundle.manifest),
            dataset=facts,
            engines={**{name: kind.summary for name, kind in kinds.items()}, **SUMMARIES},
        )

    def task(self, task: Task, span: Span) -> None:
        """Everything about one task: processes up, speed, accuracy, processes down."""
        options = self._options
        workload = build_workload(task, self._dataset, self._bundle, options.work_users, options.seed)
        kinds = {name: kind for name, kind in self._kinds.items() if task in kind.tasks}
        with tempfile.TemporaryDirectory(prefix="podx-bench-") as folder, ExitStack() as stack:
            work = Path(folder) / "work.npz"
            write_work(work, workload.requests)
            scratch = Path(folder) / "stderr"
            scratch.mkdir()
            processes = {}
            for name in kinds:
                self._tell(f"{task}: load {name}")
                process = EngineProcess(name, self._context(task), work, scratch)
                processes[name] = stack.enter_context(process)
            halves = slices(span, 2 if options.speed and options.accuracy else 1)
            if options.speed:
                self._speed(workload, processes, _expires(halves[0]))
            if options.accuracy:
                self._accuracy(workload.head(options.scored_users), kinds, processes, (time.monotonic(), span[1]))

    def _context(self, task: Task) -> EngineContext:
        options = self._options
        return EngineContext(
            bundle=self._inputs.bundle,
            checkpoint=self._inputs.checkpoint,
            task=task,
            device=options.device,
            threads=options.thread_count,
            spin=options.spin,
            beams=options.beams,
            k=options.k,
        )

    def _speed(self, workload: Workload, processes: Mapping[str, EngineProcess], expired: Expired) -> None:
        users = min(self._options.timed_users, len(workload))
        for batch_size in self._options.batch_sizes:
            self._tell(f"{workload.task}: time {', '.join(processes)} with batch size {batch_size}")
            records = measure_cell(Cell(workload.task, batch_size, users), processes, self._options.rounds, expired)
            if len(records) == 0 or records[0].rounds < self._options.rounds:
                self._note(f"{workload.task}, batch size {batch_size}: the time ended before all rounds were run")
            self._keep(speed=(*self.results.speed, *records))

    def _accuracy(
        self, workload: Workload, kinds: Mapping[str, EngineKind], processes: Mapping[str, EngineProcess], span: Span
    ) -> None:
        task = workload.task
        self._keep(
            accuracy=(*self.results.accuracy, *accuracy.baseline_records(self._dataset, workload, self._options.seed))
        )
        # references first, so that a comparison needs no second pass
        names = sorted(kinds, key=lambda name: (kinds[name].reference is not None, kinds[name].slow))
        answered: dict[str, list[Answer]] = {}
        for name, share in zip(names, slices(span, len(names)), strict=True):
            kind = kinds[name]
            wanted = min(len(workload), self._options.eager_users) if kind.slow else len(workload)
            size = accuracy.EAGER_BATCH_SIZE if kind.slow else accuracy.BATCH_SIZE
            answers, seconds = accuracy.collect_answers(
                processes[name], wanted, size, _expires(share), self._progress(f"{task}: accuracy of {name}", wanted)
            )
            if len(answers) < wanted:
                self._note(f"{task}: the time ended after {len(answers)} of {wanted} users of {name}")
            if answers:
                answered[name] = answers
                record = accuracy.score(name, workload, answers, seconds, self._dataset)
                record = self._compared(record, kind, answered, task)
                self._keep(accuracy=(*self.results.accuracy, record))

    def _compared(
        self, record: AccuracyRecord, kind: EngineKind, answered: Mapping[str, list[Answer]], task: Task
    ) -> AccuracyRecord:
        if kind.reference is None or kind.reference not in answered:
            return record
        share, users = accuracy.agreement(answered[record.engine], answered[kind.reference], self._dataset, task)
        return dataclasses.replace(record, overlap=share, overlap_with=kind.reference, overlap_users=users)

    def _progress(self, what: str, wanted: int) -> accuracy.Progress:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self._tell(f"{what}, {done} of {wanted} users")

        return advance

    def _note(self, note: str) -> None:
        self._keep(notes=(*self.results.notes, note))

    def _keep(self, **changes: Any) -> None:
        self.results = dataclasses.replace(self.results, **changes)
        self.results.save(self._out)


def _model_facts(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of the model; of how it was trained, only what names no path."""
    training = manifest.provenance.get("training") or {}
    return {
        "podx_version": manifest.podx_version,
        "shape": dataclasses.asdict(manifest.shape),
        "tasks": [task.value for task in manifest.tasks],
        "prompts": manifest.prompts,
        "scheme": manifest.scheme,
        "precision": manifest.precision,
        "max_history": manifest.max_history,
        "parameters": manifest.provenance.get("parameters"),
        "parity": dict(manifest.parity),
        "training_seed": training.get("seed"),
        "best_epoch": training.get("best_epoch"),
    }


def _dataset_facts(dataset: Dataset, path: Path) -> dict[str, Any]:
    return {
        "name": path.resolve().name,
        "scheme": dataset.scheme,
        "users": dataset.user_count,
        "items": dataset.item_count,
        "interactions": dataset.interaction_count,
    }
