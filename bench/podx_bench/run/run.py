"""One run: bundle, checkpoint and dataset in, ``results.json`` out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.accuracy import metrics
from podx_bench.engines import EngineContext, EngineKind, select
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.child import CALL_TIMEOUT_S, Tell
from podx_bench.harness.environment import describe
from podx_bench.harness.records import BENCH_FILE, Results, StreamRecord
from podx_bench.harness.resources import MILLISECONDS, SECONDS, about
from podx_bench.latency.speed import PASS_TIMEOUT_S, Cell, Expired, measure_cell, measure_stream
from podx_bench.peers.place import versions
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import TaskPlan, describe_plan, estimated_seconds, plan_task
from podx_bench.run.variants import load_variants, variant_kind
from podx_bench.workload.baselines import SUMMARIES
from podx_bench.workload.inputs import dataset_facts, model_facts, require_match
from podx_bench.workload.scenarios import Workload, choose_tasks
from podx_bench.workload.work import Answer
from podx_train.data.dataset import Dataset

INTERRUPTED = "stopped before the end: here is what had been measured until then"
Span = tuple[float, float]
"""Start and end on the monotonic clock, seconds."""
Processes = Mapping[str, EngineProcess]


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


def slices(span: Span, parts: int) -> list[Span]:
    """A span of time in equal parts; each ends at its own time, so a part done early leaves more to the next."""
    start, end = span
    if end == float("inf"):
        return [span] * parts
    width = (end - start) / parts
    return [(start + part * width, start + (part + 1) * width) for part in range(parts)]


def _until(end: float) -> Expired:
    return lambda: time.monotonic() >= end


class BenchRun:
    """A run of ``podx bench``: what is asked for is checked here, :meth:`measure` measures it.

    Args:
        out: folder of ``results.json``, which is written anew after every cell.
        tell: told what is being done. say: told once what will be done, and about how long it takes.

    Attributes:
        results: what has been measured so far.

    Raises:
        ConfigError: an engine or task is unknown, or bundle, variants and dataset do not belong together.
        DataError, BundleError, CheckpointError: what was given cannot be read.
    """

    def __init__(
        self, inputs: Inputs, out: Path, options: BenchOptions, tell: Tell = lambda _: None, say: Tell = lambda _: None
    ) -> None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file: choose another --out")
        self._inputs, self._out, self._options, self._tell, self._say = inputs, out, options, tell, say
        self._bundle, self._dataset = Bundle.load(inputs.bundle), Dataset.load(inputs.data)
        variants = load_variants(inputs.variants, self._bundle)
        made = {name: variant_kind(name, variant) for name, variant in variants.items()}
        one_pass = self._bundle.manifest.one_pass
        self._kinds = select(options.engines, inputs.checkpoint is not None, made, one_pass)
        require_match(self._bundle, self._dataset)
        self._tasks = choose_tasks(self._bundle, self._dataset, options.tasks)
        idle = ", ".join(name for name, kind in self._kinds.items() if not set(self._tasks) & set(kind.tasks))
        if idle:
            raise ConfigError(f"{idle} cannot do any of the tasks {', '.join(self._tasks)}: leave it out of --engines")
        self._estimated = False
        facts = dataset_facts(self._dataset, inputs.data)
        asked = msgspec.to_builtins(options) | {"tasks": [t.value for t in self._tasks], "engines": list(self._kinds)}
        self.results = Results(
            label=inputs.label or f"{facts['name']} {facts['scheme']}",
            environment={**describe(options.device, options.thread_count), "peers": versions()},
            options=asked,
            model=model_facts(self._bundle),
            dataset=facts,
            engines={**{name: kind.summary for name, kind in self._kinds.items()}, **SUMMARIES},
            variants={name: model_facts(variant) for name, variant in variants.items()},
        )

    def measure(self) -> Results:
        """Measure task by task.

        Raises:
            ConfigError: no input has the length asked for. DeviceError: the device is not there.
            EngineError: an engine's process failed.
        """
        options, start = self._options, time.monotonic()
        self._tell("choose the requests")
        plans = [plan_task(task, self._dataset, self._bundle, options) for task in self._tasks]
        for sentence in describe_plan(plans, self._kinds, options):
            self._say(sentence)
        self._add()
        end = float("inf") if options.max_minutes is None else start + options.max_minutes * SECONDS
        for number, span in enumerate(slices((start, end), len(plans))):
            self._measure_task(plans[number:], span)
        return self.results

    def interrupt(self) -> None:
        """Note that the run was stopped."""
        self._add(notes=[INTERRUPTED])

    def _measure_task(self, plans: list[TaskPlan], span: Span) -> None:
        """Everything about the first of the tasks that are left: speed, accuracy, then one by one for the stream."""
        plan, options = plans[0], self._options
        self._add(notes=plan.notes)
        kinds = {name: kind for name, kind in self._kinds.items() if plan.task in kind.tasks}
        spans = iter(slices(span, sum([options.speed, options.accuracy, plan.streamed is not None])))
        if options.speed or options.accuracy:
            with ExitStack() as stack:
                processes = {}
                for engine in kinds:
                    self._tell(f"{plan.task}: load {engine}")
                    processes[engine] = stack.enter_context(self._start(engine, plan))
                self._estimate(plans, processes)
                if plan.timed is not None:
                    self._speed(plan.timed, processes, _until(next(spans)[1]))
                if plan.scored is not None:
                    self._accuracy(plan.scored, kinds, processes, (time.monotonic(), next(spans)[1]))
        if plan.streamed is not None:
            self._stream(plan, plan.streamed, list(kinds), _until(next(spans)[1]))

    def _estimate(self, plans: list[TaskPlan], processes: Processes) -> None:
        """Say once about how long all of it takes, by a call of each engine."""
        if self._estimated:
            return
        self._estimated = True
        self._tell("time one call of each engine")
        measured = {name: (p.load_s, sum(p.time([[0]]).ms) / MILLISECONDS) for name, p in processes.items()}
        seconds = estimated_seconds(plans, self._kinds, self._options, measured)
        limit = "" if self._options.max_minutes is None else f", at most {self._options.max_minutes:g} (--max-minutes)"
        self._say(f"This takes {about(seconds)}{limit}. Ctrl-C ends it and keeps what has been measured.")

    def _start(self, engine: str, plan: TaskPlan, batch_size: int | None = None) -> EngineProcess:
        """The process of an engine; with a batch size, one that is given many requests in one call."""
        kind, options = self._kinds[engine], self._options
        context = EngineContext(
            bundle=kind.bundle or self._inputs.bundle,
            checkpoint=self._inputs.checkpoint,
            task=plan.task,
            **options.engine,
            spin=options.spin,
            k=options.k,
            batch_size=batch_size,
        )
        timeout = CALL_TIMEOUT_S if batch_size is None else PASS_TIMEOUT_S
        return EngineProcess(engine, context, plan.requests, timeout, kind.loads or "")

    def _speed(self, cell: Cell, processes: Processes, expired: Expired) -> None:
        for batch_size in self._options.batch_sizes:
            self._tell(f"{cell.task}: time {', '.join(processes)} with batch size {batch_size}")
            sized = dataclasses.replace(cell, batch_size=batch_size)
            records = measure_cell(sized, processes, self._options.rounds, expired)
            self._add(speed=records)
            if not records or records[0].rounds < self._options.rounds:
                self._add(notes=[f"{cell.task}, batch size {batch_size}: the time ended before all rounds were run"])

    def _stream(self, plan: TaskPlan, cell: Cell, engines: list[str], expired: Expired) -> None:
        def start(engine: str) -> EngineProcess:
            return self._start(engine, plan, cell.batch_size)

        before, done = self.results, list[StreamRecord]()
        for done in measure_stream(cell, engines, start, expired, self._tell):
            self.results = dataclasses.replace(before, stream=(*before.stream, *done))
            self._add()
        self._add(notes=[f"{cell.task}: the time ended before the pass of {name}" for name in engines[len(done) :]])

    def _accuracy(self, workload: Workload, kinds: Mapping[str, EngineKind], processes: Processes, span: Span) -> None:
        task, options = workload.task, self._options
        self._add(accuracy=metrics.baseline_records(self._dataset, workload, options.seed))
        names = metrics.comparison_order(kinds)
        answered: dict[str, list[Answer]] = {}
        for name, share in zip(names, slices(span, len(names)), strict=True):
            kind = kinds[name]
            wanted = min(len(workload), options.eager_users) if kind.slow else len(workload)
            size = metrics.EAGER_BATCH_SIZE if kind.slow else metrics.BATCH_SIZE
            record, answers = metrics.measure(
                name, processes[name], workload, wanted, size, self._dataset, self._tell, _until(share[1])
            )
            if len(answers) < wanted:
                self._add(notes=[f"{task}: the time ended after {len(answers)} of {wanted} users of {name}"])
            if record is not None:
                answered[name] = answers
                if kind.reference in answered:
                    record = metrics.compared(record, answered, kind.reference, workload, self._dataset)
                self._add(accuracy=[record])

    def _add(self, **more: Iterable[Any]) -> None:
        """Append to fields of the results, and write them."""
        grown: dict[str, Any] = {name: (*getattr(self.results, name), *values) for name, values in more.items()}
        self.results = dataclasses.replace(self.results, **grown)
        BENCH_FILE.write(self._out, self.results)
