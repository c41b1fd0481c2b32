"""Which requests of a task are scored, timed and streamed. All of them go to the engines in one list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.text.templates import Task
from podx_bench.latency.speed import Cell
from podx_bench.run.options import BenchOptions
from podx_bench.workload.lengths import SLACK_TOKENS, LengthMeter, fixed_length
from podx_bench.workload.scenarios import Workload, build_workload
from podx_bench.workload.work import WorkItem
from podx_train.data.dataset import Dataset

SAMPLE = 32
"""Requests whose length is measured where none are timed."""


@dataclass(frozen=True)
class Part:
    """Requests ``first_row`` … of the list, and the tokens of each one's input, int64 [users]."""

    first_row: int
    source_tokens: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskPlan:
    """The requests of a task.

    Attributes:
        requests: of all parts, one after another.
        scored: those that accuracy is measured on: the first ones. timed, streamed: others. None: not wanted.
        mean_tokens: mean source length of some of the requests.
        decoding_steps: of the deepest item, end of sequence included; None for explanations.
        notes: what a reader must know of the choice.
    """

    task: Task
    requests: tuple[WorkItem, ...]
    scored: Workload | None
    timed: Part | None
    streamed: Part | None
    mean_tokens: float
    decoding_steps: int | None
    notes: tuple[str, ...] = ()

    def cell(self, part: Part, batch_size: int) -> Cell:
        """A part in batches of a size."""
        tokens = part.source_tokens
        return Cell(self.task, batch_size, len(tokens), part.first_row, tokens, self.decoding_steps)


def plan_task(task: Task, dataset: Dataset, bundle: Bundle, options: BenchOptions) -> TaskPlan:
    """Choose the requests that the options ask for; a ConfigError where no input has the length asked for."""
    meter = LengthMeter(bundle, task)
    workload = build_workload(task, dataset, bundle, options.work_users, options.seed)
    requests = list(workload.requests)
    timed: Part | None = None
    streamed: Part | None = None
    notes: tuple[str, ...] = ()
    if options.source_length is not None:
        count, length = options.timed_users, options.source_length
        chosen = fixed_length(task, dataset, bundle, length, count, options.seed, meter)
        timed = Part(len(requests), meter.all(chosen.requests))
        requests += chosen.requests
        if chosen.exact < count:
            notes = (
                f"{task}: {chosen.exact} of the {len(chosen.requests)} timed inputs have exactly {length} tokens, "
                f"the others up to {SLACK_TOKENS} fewer; {count} users were asked for",
            )
    elif options.speed:
        timed = Part(0, meter.all(requests[: options.timed_users]))
    if options.stream_users is not None:
        stream = build_workload(task, dataset, bundle, options.stream_users, options.seed, file_order=True).requests
        streamed = Part(len(requests), meter.all(stream))
        requests += stream
    steps = None if task is Task.EXPLANATION else bundle.catalog.trie.depth + 1
    scored = workload.head(options.scored_users) if options.accuracy else None
    sample = meter.all(requests[:SAMPLE]) if timed is None else timed.source_tokens
    return TaskPlan(task, tuple(requests), scored, timed, streamed, float(sample.mean()), steps, notes)
