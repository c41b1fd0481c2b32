"""One run: bundle, checkpoint and dataset in, ``results.json`` out."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench import accuracy
from podx_bench.engines import EngineContext, EngineKind, select
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.child import CALL_TIMEOUT_S
from podx_bench.harness.environment import describe
from podx_bench.harness.gemm import measure_apart
from podx_bench.harness.records import Results, SpeedRecord, StreamRecord
from podx_bench.harness.roofline import Arithmetic, RooflineCell, rooflines
from podx_bench.latency.speed import Expired, measure_cell
from podx_bench.latency.stream import PASS_TIMEOUT_S, measure_stream
from podx_bench.peers.place import versions
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import Part, TaskPlan, plan_task
from podx_bench.run.variants import load_variants, variant_kind
from podx_bench.workload.baselines import SUMMARIES
from podx_bench.workload.facts import dataset_facts, model_facts
from podx_bench.workload.matching import require_match
from podx_bench.workload.scenarios import Workload, choose_tasks
from podx_bench.workload.work import Answer, write_work
from podx_train.data.dataset import Dataset

SECONDS = 60.0
CPU = "cpu"
Tell = Callable[[str], None]
Span = tuple[float, float]
"""Start and end on the monotonic clock, seconds."""


@dataclass(frozen=True)
class Inputs:
    """What a run is about.

    Attributes:
        label: the run's name where several are compared; None: the dataset's folder and ID scheme.
        variants: more bundles of the same model, by the name that follows ``podx-`` in their engines' names.
    """

    bundle: Path
    data: Path
    checkpoint: Path | None = None
    label: str | None = None
    variants: Mapping[str, Path] = field(default_factory=dict)


def run_bench(inputs: Inputs, out: Path, options: BenchOptions, tell: Tell = lambda _: None) -> Results:
    """Measure and write ``results.json`` into ``out``, anew after every cell, so that a stopped run keeps what it has.

    Raises:
        ConfigError: an engine or task is unknown, or bundle, variants and dataset do not belong together.
        DataError, BundleError, CheckpointError: what was given cannot be read.
        DeviceError: the device is not there.
        EngineError: an engine's process failed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    bundle = Bundle.load(inputs.bundle)
    variants = load_variants(inputs.variants, bundle)
    own = {name: variant_kind(name, variant) for name, variant in variants.items()}
    kinds = select(options.engines, inputs.checkpoint is not None, own)
    dataset = Dataset.load(inputs.data)
    require_match(bundle, dataset)
    tasks = choose_tasks(bundle, dataset, options.tasks)
    runs = [name for name, kind in kinds.items() if any(task in kind.tasks for task in tasks)]
    if len(runs) < len(kinds):
        idle = ", ".join(name for name in kinds if name not in runs)
        raise ConfigError(f"{idle} cannot do any of the tasks {', '.join(tasks)}: leave it out of --engines")
    facts = dataset_facts(dataset, inputs.data)
    results = Results(
        label=inputs.label or f"{facts['name']} {facts['scheme']}",
        environment={**describe(options.device, options.threads), "peers": versions()},
        options={**options.as_json(), "tasks": [t.value for t in tasks], "engines": list(kinds)},
        model=model_facts(bundle),
        dataset=facts,
        engines={**{name: kind.summary for name, kind in kinds.items()}, **SUMMARIES},
        variants={name: model_facts(variant) for name, variant in variants.items()},
    )
    run = _Run(inputs, out, options, kinds, bundle, dataset, tell, results)
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
        results: Results,
    ) -> None:
        self._inputs, self._out, self._options, self._kinds = inputs, out, options, kinds
        self._bundle, self._dataset, self._tell = bundle, dataset, tell
        self._arithmetic: Arithmetic | None = None
        self.results = results
        if options.speed and options.roofline and options.device == CPU:
            self._measure_machine()

    def _measure_machine(self) -> None:
        self._tell("the machine's own rate of multiplying matrices")
        self._keep(gemm=measure_apart(self._options.thread_count, self._options.spin))
        if self._inputs.checkpoint is not None:
            self._arithmetic = Arithmetic.of_checkpoint(self._inputs.checkpoint)

    def task(self, task: Task, span: Span) -> None:
        """Everything about one task: processes up, speed, accuracy, processes down; then one by one for the stream."""
        options = self._options
        plan = plan_task(task, self._dataset, self._bundle, options)
        for note in plan.notes:
            self._note(note)
        kinds = {name: kind for name, kind in self._kinds.items() if task in kind.tasks}
        wanted = [options.speed, options.accuracy, plan.streamed is not None]
        spans = iter(slices(span, sum(wanted)))
        with tempfile.TemporaryDirectory(prefix="podx-bench-") as name:
            folder = Path(name)
            write_work(folder / "work.npz", plan.requests)
            if options.speed or options.accuracy:
                with ExitStack() as stack:
                    processes = {}
                    for engine in kinds:
                        self._tell(f"{task}: load {engine}")
                        processes[engine] = stack.enter_context(self._start(engine, task, folder))
                    if plan.timed is not None:
                        self._speed(plan, plan.timed, processes, _expires(next(spans)))
                    if plan.scored is not None:
                        self._accuracy(plan.scored, kinds, processes, (time.monotonic(), next(spans)[1]))
            if plan.streamed is not None:
                self._stream(plan, plan.streamed, list(kinds), folder, _expires(next(spans)))

    def _start(self, engine: str, task: Task, folder: Path, batch_size: int | None = None) -> EngineProcess:
        """The process of an engine; with a batch size, one that is given many requests in one call."""
        kind, options = self._kinds[engine], self._options
        context = EngineContext(
            bundle=kind.bundle or self._inputs.bundle,
            checkpoint=self._inputs.checkpoint,
            task=task,
            device=options.device,
            threads=options.thread_count,
            spin=options.spin,
            beams=options.beams,
            k=options.k,
            batch_size=batch_size,
        )
        timeout = CALL_TIMEOUT_S if batch_size is None else PASS_TIMEOUT_S
        return EngineProcess(engine, context, folder / "work.npz", timeout, kind.loads)

    def _speed(self, plan: TaskPlan, part: Part, processes: Mapping[str, EngineProcess], expired: Expired) -> None:
        for batch_size in self._options.batch_sizes:
            self._tell(f"{plan.task}: time {', '.join(processes)} with batch size {batch_size}")
            records = measure_cell(plan.cell(part, batch_size), processes, self._options.rounds, expired)
            if len(records) == 0 or records[0].rounds < self._options.rounds:
                self._note(f"{plan.task}, batch size {batch_size}: the time ended before all rounds were run")
            self._keep(speed=(*self.results.speed, *records))
            if records:
                self._rooflines(records[0])

    def _rooflines(self, record: SpeedRecord) -> None:
        """The roofline of the cell that a record is of."""
        mean, steps = record.source_tokens_mean, record.decoding_steps
        if self._arithmetic is None or mean is None or steps is None:
            return
        tokens = mean + self._bundle.manifest.prompt_vectors
        cell = RooflineCell(record.task, record.batch_size, tokens, steps, self._options.beams)
        self._keep(rooflines=(*self.results.rooflines, *rooflines(cell, self._arithmetic, self.results.gemm)))

    def _stream(self, plan: TaskPlan, part: Part, engines: list[str], folder: Path, expired: Expired) -> None:
        options = self._options
        size = options.stream_batch

        def start(engine: str) -> EngineProcess:
            return self._start(engine, plan.task, folder, size)

        before, done = self.results.stream, list[StreamRecord]()
        cell, rounds = plan.cell(part, size), options.stream_rounds
        for done in measure_stream(cell, engines, start, rounds, expired, self._tell):
            self._keep(stream=(*before, *done))
        passes = {record.engine: len(record.round_s) for record in done}
        for name in engines:
            if passes.get(name, 0) < rounds:
                self._note(f"{plan.task}: the time ended after {passes.get(name, 0)} of {rounds} passes of {name}")

    def _accuracy(
        self, workload: Workload, kinds: Mapping[str, EngineKind], processes: Mapping[str, EngineProcess], span: Span
    ) -> None:
        task = workload.task
        self._keep(
            accuracy=(*self.results.accuracy, *accuracy.baseline_records(self._dataset, workload, self._options.seed))
        )
        names = accuracy.comparison_order(kinds)
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
                if kind.reference in answered:
                    record = accuracy.compared(record, answered, kind.reference, workload, self._dataset)
                self._keep(accuracy=(*self.results.accuracy, record))

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
