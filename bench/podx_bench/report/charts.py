"""The charts of a run, made from its results alone: each function draws one of a task, or None without its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from podx.text.templates import Task
from podx_bench.engines import OURS
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord
from podx_bench.pages.drawing import (
    BASELINE_COLOUR,
    OTHER_COLOURS,
    OURS_COLOURS,
    ROOFLINE_COLOUR,
    Bars,
    Line,
    bar_chart,
    line_chart,
    lines_through,
    point_chart,
)
from podx_bench.pages.table import short
from podx_bench.workload.baselines import SUMMARIES

LEAST_PLACES = 2
"""Points that a line, and engines that a comparison, must have."""


def report_charts(results: Results) -> list[str]:
    """Every chart that the run can fill; the first one tells most."""
    kinds = (latency_chart, stream_chart, accuracy_chart, tradeoff_chart, tail_chart)
    return [chart for kind in kinds for task in results.options["tasks"] if (chart := kind(results, task))]


def beam_charts(runs: Sequence[Results]) -> list[str]:
    """Time per user against beams, of runs of one model that differ in them: one of each task and batch size.

    Drawn are the engines that were timed with more than one number of beams.
    """
    charts = []
    for same in ([run for run in runs if run.model == model] for model in _distinct(run.model for run in runs)):
        timed = [(run.options["beams"], record) for run in same for record in run.speed]
        palette = dict(chain.from_iterable(colours(run).items() for run in same))
        for task, size in dict.fromkeys((record.task, record.batch_size) for _, record in timed):
            chosen = sorted((r.engine, b, r.ms_per_user) for b, r in timed if (r.task, r.batch_size) == (task, size))
            lines = lines_through(((engine, (beams, ms)) for engine, beams, ms in chosen), palette)
            lines = [line for line in lines if len(dict(line.points)) >= LEAST_PLACES]
            if lines:
                title = f"{task}, batch size {size}: ms per user, less is better"
                ticks = sorted({beams for line in lines for beams, _ in line.points})
                charts.append(line_chart(title, ("beams", "ms per user"), lines, ticks))
    return charts


def _distinct(models: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for model in models:
        if model not in found:
            found.append(model)
    return found


def colours(results: Results) -> dict[str, str]:
    """A colour for every engine, the same one in all charts of a run."""
    palette = dict.fromkeys(SUMMARIES, BASELINE_COLOUR)
    engines = [name for name in results.options["engines"] if name not in palette]
    ours = [name for name in engines if name.startswith(OURS)]
    for tints, names in ((OURS_COLOURS, ours), (OTHER_COLOURS, [name for name in engines if name not in ours])):
        palette |= {name: tints[place % len(tints)] for place, name in enumerate(names)}
    return palette


def _speed(results: Results, task: str) -> tuple[list[SpeedRecord], list[int]]:
    """The task's records by batch size, and these sizes."""
    records = [record for record in results.speed if record.task == task]
    return sorted(records, key=attrgetter("batch_size")), sorted({record.batch_size for record in records})


def latency_chart(results: Results, task: str) -> str | None:
    """Time per user against batch size; bars where there is only one batch size."""
    records, sizes = _speed(results, task)
    if not records:
        return None
    bounds = _roofline_lines(results, task)
    if len(sizes) >= LEAST_PLACES:
        lines = lines_through(((r.engine, (r.batch_size, r.ms_per_user)) for r in records), colours(results))
        title = f"{task}: ms per user, less is better"
        return line_chart(title, ("batch size", "ms per user"), [*lines, *bounds], sizes)
    bars = [(record.engine, record.engine, record.ms_per_user) for record in records]
    least = [(line.name, line.points[0][1]) for line in bounds]
    return _bars(results, f"{task}, batch size {sizes[0]}", "ms per user, less is better", bars, bounds=least)


def _bars(
    results: Results,
    title: str,
    unit: str,
    bars: Sequence[tuple[str, str, float]],
    number: Callable[[float], str] = short,
    bounds: Bars = (),
) -> str:
    """Bars in the colours of their engines. ``bars``: engine, name and figure of each."""
    palette = colours(results)
    tints = [palette.get(engine, BASELINE_COLOUR) for engine, *_ in bars]
    return bar_chart(title, unit, [bar[1:] for bar in bars], tints, number, bounds)


def _roofline_lines(results: Results, task: str) -> list[Line]:
    """The roofline in every precision that an engine of the run has."""
    precisions = {model["precision"] for model in (results.model, *results.variants.values())}
    precisions |= {name.rpartition("-")[2] for name in results.options["engines"]}
    found = [r for r in results.rooflines if r.task == task and r.precision in precisions]
    points = [(f"roofline {r.precision}", (r.batch_size, r.ms_per_user)) for r in found]
    return lines_through(sorted(points), {name: ROOFLINE_COLOUR for name, _ in points}, dashed=True)


def tail_chart(results: Results, task: str) -> str | None:
    """p99 of a call against throughput, a line through the batch sizes of each engine."""
    records, sizes = _speed(results, task)
    if len(sizes) < LEAST_PLACES:
        return None
    lines = lines_through(((r.engine, (r.users_per_s, r.p99_ms)) for r in records), colours(results))
    title = f"{task}: throughput and p99, down and right is better"
    return line_chart(title, ("users per second", "p99 of a call, ms"), lines)


def stream_chart(results: Results, task: str) -> str | None:
    """Throughput of every engine that got all users in one call."""
    bars = [(r.engine, r.engine, r.users_per_s) for r in results.stream if r.task == task]
    users = [f"{record.users:,}" for record in results.stream if record.task == task]
    unit = "users per second, more is better"
    return _bars(results, f"{task}: {users[0]} users in one call", unit, bars) if bars else None


def tradeoff_chart(results: Results, task: str) -> str | None:
    """Accuracy against speed at the largest batch size, of ranking tasks.

    Only engines whose accuracy was measured on the same users are drawn: those of the most users. The accuracy is
    HR@10, or, where a model hits nothing, how much of podx's top ten an engine finds.
    """
    records, sizes = _speed(results, task)
    speed = {record.engine: record.users_per_s for record in records if record.batch_size == sizes[-1]}
    rows = [record for record in results.accuracy if record.task == task and record.engine in speed]
    rows = [row for row in rows if row.users == max(other.users for other in rows)]
    if task == Task.EXPLANATION:
        return None
    hits, palette = any(row.metrics["hr_10"] for row in rows), colours(results)
    places = [(row.engine, row.metrics["hr_10"] if hits else _shared(row)) for row in rows]
    points = [Line(name, ((speed[name], y),), palette[name]) for name, y in places if y is not None]
    if len(points) < LEAST_PLACES:
        return None
    title = f"{task}: speed and accuracy, up and right is better"
    what = "HR@10" if hits else f"share of {OURS}'s top 10"
    return point_chart(title, (f"users per second, batch size {sizes[-1]}", what), points)


def _shared(record: AccuracyRecord) -> float | None:
    """How much of podx's top ten an engine finds."""
    if record.engine == OURS:
        return 1.0
    return record.overlap if record.overlap_with == OURS else None


def accuracy_chart(results: Results, task: str) -> str | None:
    """HR@10 of every row, of ranking tasks."""
    rows = [record for record in results.accuracy if record.task == task]
    if not rows or task == Task.EXPLANATION:
        return None
    bars = [(row.engine, f"{row.engine}, {row.users:,} users", row.metrics["hr_10"]) for row in rows]
    return _bars(results, f"{task}, test split", "HR@10, more is better", bars, "{:.4f}".format)
