"""What a run will do, and about how long it takes: one call of each engine, scaled by users and source tokens.

Engines take about as long per user in a batch as alone (eager ones), or less (podx), and about in proportion to the
source, so the estimate is rather too long than too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podx_bench.engines import EngineKind
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import TaskPlan

SECONDS = 60.0
WARM_UP_BATCHES = 1.5
"""Batches before the timed ones: two, or one where that takes long."""


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
        said.append(f"Stream: {options.stream_users:,} users, {options.stream_rounds} round(s).")
    return said


def user_count(plan: TaskPlan, kind: EngineKind, options: BenchOptions) -> float:
    """Users that an engine answers in a task, warm-ups and repetitions counted."""
    if plan.task not in kind.tasks:
        return 0
    users = 0.0
    if plan.timed is not None:
        timed = len(plan.timed.source_tokens)
        users += sum(max(timed, size) + WARM_UP_BATCHES * size for size in options.batch_sizes)
    if plan.scored is not None and not kind.speed_only:
        users += min(len(plan.scored), options.eager_users) if kind.slow else len(plan.scored)
    if plan.streamed is not None:
        users += options.stream_rounds * (len(plan.streamed.source_tokens) + WARM_UP_BATCHES * options.stream_batch)
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


def about(seconds: float) -> str:
    """A length of time in words, no more exact than it is known."""
    minutes = seconds / SECONDS
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"
