"""Which requests of a task are scored, timed and streamed. All of them go to the engines in one list.

How long they take is estimated from one call of each engine, scaled by users and source tokens. Engines take about as
long per user in a batch as alone (eager ones), or less (podx), and about in proportion to the source, so the estimate
is rather too long than too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podx.bundle.bundle import Bundle
from podx.text.templates import Task
from podx_bench.engines import EngineKind
from podx_bench.latency.speed import Cell
from podx_bench.run.options import BenchOptions
from podx_bench.workload.scenarios import SLACK_TOKENS, Workload, build_workload, fixed_length
from podx_bench.workload.work import RequestReader, WorkItem
from podx_train.data.dataset import Dataset

WARM_UP_BATCHES = 1.5
"""Batches before the timed ones: two, or one where that takes long."""
SAMPLE = 32
"""Requests whose length is measured where none are timed."""


@dataclass(frozen=True)
class TaskPlan:
    """The requests of a task.

    Attributes:
        requests: of all parts, one after another.
        scored: those that accuracy is measured on: the first ones. timed, streamed: which others; the timed ones' batch
            size is still to be set. None: not wanted.
        mean_tokens: mean source length of some of the requests.
        notes: what a reader must know of the choice.
    """

    task: Task
    requests: tuple[WorkItem, ...]
    scored: Workload | None
    timed: Cell | None
    streamed: Cell | None
    mean_tokens: float
    notes: tuple[str, ...] = ()


def plan_task(task: Task, dataset: Dataset, bundle: Bundle, options: BenchOptions) -> TaskPlan:
    """Choose the requests that the options ask for; a ConfigError where no input has the length asked for."""
    reader = RequestReader(bundle, task)
    workload = build_workload(task, dataset, bundle, options.work_users, options.seed)
    requests = list(workload.requests)
    timed: Cell | None = None
    streamed: Cell | None = None
    notes: tuple[str, ...] = ()
    ends = not bundle.manifest.one_pass  # end of sequence is a step of its own
    steps = None if task is Task.EXPLANATION else bundle.catalog.trie.depth + ends

    def cell(first_row: int, chosen: Sequence[WorkItem], batch_size: int = 1) -> Cell:
        return Cell(task, batch_size, len(chosen), first_row, reader.lengths(chosen), steps)

    if options.source_length is not None:
        count, length = options.timed_users, options.source_length
        chosen = fixed_length(task, dataset, bundle, length, count, options.seed, reader)
        timed = cell(len(requests), chosen.requests)
        requests += chosen.requests
        if chosen.exact < count:
            notes = (
                f"{task}: {chosen.exact} of the {len(chosen.requests)} timed inputs have exactly {length} tokens, "
                f"the others up to {SLACK_TOKENS} fewer; {count} users were asked for",
            )
    elif options.speed:
        timed = cell(0, requests[: options.timed_users])
    if options.stream_users is not None:
        stream = build_workload(task, dataset, bundle, options.stream_users, options.seed, file_order=True).requests
        streamed = cell(len(requests), stream, options.stream_batch)
        requests += stream
    scored = workload.head(options.scored_users) if options.accuracy else None
    sample = requests[:SAMPLE] if timed is None else requests[timed.first_row :][: timed.users]
    return TaskPlan(task, tuple(requests), scored, timed, streamed, float(reader.lengths(sample).mean()), notes)


def describe_plan(plans: Sequence[TaskPlan], kinds: Mapping[str, EngineKind], options: BenchOptions) -> list[str]:
    """What will be done, in sentences."""
    said = [f"{', '.join(plan.task for plan in plans)} on {', '.join(kinds)}."]
    if options.speed:
        sizes = " and ".join(map(str, options.batch_sizes))
        said.append(f"Speed: {options.timed_users} users in batches of {sizes}, {options.rounds} rounds.")
    if options.accuracy:
        scored = max(len(plan.scored) for plan in plans if plan.scored is not None)
        slow = ", ".join(name for name, kind in kinds.items() if kind.slow and not kind.speed_only)
        eager = f", {slow} on the first {options.eager_users} (--eager-users)" if slow else ""
        said.append(f"Accuracy: {scored:,} users (--accuracy-users){eager}.")
    if options.stream_users is not None:
        said.append(f"Stream: {options.stream_users:,} users.")
    return said


def user_count(plan: TaskPlan, kind: EngineKind, options: BenchOptions) -> float:
    """Users that an engine answers in a task, warm-ups and repetitions counted."""
    if plan.task not in kind.tasks:
        return 0
    users = 0.0
    if plan.timed is not None:
        users += sum(max(plan.timed.users, size) + WARM_UP_BATCHES * size for size in options.batch_sizes)
    if plan.scored is not None and not kind.speed_only:
        users += min(len(plan.scored), options.eager_users) if kind.slow else len(plan.scored)
    if plan.streamed is not None:
        users += plan.streamed.users + WARM_UP_BATCHES * options.stream_batch
    return users


def estimated_seconds(
    plans: Sequence[TaskPlan],
    kinds: Mapping[str, EngineKind],
    options: BenchOptions,
    measured: Mapping[str, tuple[float, float]],
) -> float:
    """Seconds of all tasks, from ``measured`` in the first: of each engine, seconds to load and of one request."""
    return sum(
        load_s + user_count(plan, kinds[name], options) * call_s * plan.mean_tokens / plans[0].mean_tokens
        for plan in plans
        for name, (load_s, call_s) in measured.items()
        if plan.task in kinds[name].tasks
    )
