"""The charts of a run, made from its results alone."""

from __future__ import annotations

from collections.abc import Sequence

from podx.text.templates import Task
from podx_bench.engines import OURS
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord
from podx_bench.pages.drawing import (
    BASELINE_COLOUR,
    OTHER_COLOURS,
    OURS_COLOURS,
    ROOFLINE_COLOUR,
    Line,
    bar_chart,
    line_chart,
    point_chart,
)
from podx_bench.pages.table import short
from podx_bench.workload.baselines import SUMMARIES

LEAST_PLACES = 2
"""Points that a line, and engines that a comparison, must have."""


def colours(results: Results) -> dict[str, str]:
    """A colour for every engine, the same one in all charts of a run."""
    found = dict.fromkeys(SUMMARIES, BASELINE_COLOUR)
    engines = [name for name in results.options["engines"] if name not in found]
    for palette, names in (
        (OURS_COLOURS, [name for name in engines if name.startswith(OURS)]),
        (OTHER_COLOURS, [name for name in engines if not name.startswith(OURS)]),
    ):
        found |= {name: palette[place % len(palette)] for place, name in enumerate(names)}
    return found


def latency_charts(results: Results) -> list[str]:
    """Time per user against batch size, one chart per task; bars where there is only one batch size."""
    charts, palette = [], colours(results)
    for task in results.options["tasks"]:
        records = [r for r in results.speed if r.task == task]
        sizes = sorted({r.batch_size for r in records})
        if len(sizes) >= LEAST_PLACES:
            lines = [
                Line(engine, tuple((r.batch_size, r.ms_per_user) for r in own), palette[engine])
                for engine, own in _by_engine(records)
            ]
            title = f"{task}: ms per user, less is better"
            charts.append(
                line_chart(title, ("batch size", "ms per user"), lines + _roofline_lines(results, task), sizes)
            )
        elif records:
            bars = [(r.engine, r.ms_per_user) for r in records]
            bounds = [(line.name, line.points[0][1]) for line in _roofline_lines(results, task)]
            own_colours = [palette[r.engine] for r in records]
            title = f"{task}, batch size {sizes[0]}"
            charts.append(bar_chart(title, "ms per user, less is better", bars, own_colours, short, bounds))
    return charts


def _by_engine(records: Sequence[SpeedRecord]) -> list[tuple[str, list[SpeedRecord]]]:
    """Records of each engine by batch size, engines in the order of the records."""
    engines = dict.fromkeys(record.engine for record in records)
    return [
        (name, sorted((r for r in records if r.engine == name), key=lambda record: record.batch_size))
        for name in engines
    ]


def _roofline_lines(results: Results, task: str) -> list[Line]:
    """The roofline in every precision that an engine of the run has."""
    precisions = {results.model["precision"], *(own["precision"] for own in results.variants.values())}
    named = {name.rpartition("-")[2] for name in results.options["engines"]}
    lines = []
    for precision in dict.fromkeys(record.precision for record in results.rooflines):
        own = [r for r in results.rooflines if (r.task, r.precision) == (task, precision)]
        if own and precision in precisions | named:
            points = tuple(sorted((r.batch_size, r.ms_per_user) for r in own))
            lines.append(Line(f"roofline {precision}", points, ROOFLINE_COLOUR, dashed=True))
    return lines


def tail_charts(results: Results) -> list[str]:
    """p99 of a call against throughput, a line through the batch sizes of each engine, one chart per task."""
    charts, palette = [], colours(results)
    for task in results.options["tasks"]:
        records = [r for r in results.speed if r.task == task]
        if len({r.batch_size for r in records}) >= LEAST_PLACES:
            lines = [
                Line(engine, tuple((r.users_per_s, r.p99_ms) for r in own), palette[engine])
                for engine, own in _by_engine(records)
            ]
            title = f"{task}: throughput and p99, down and right is better"
            charts.append(line_chart(title, ("users per second", "p99 of a call, ms"), lines))
    return charts


def stream_charts(results: Results) -> list[str]:
    """Throughput of every engine that got all users in one call, one chart per task."""
    charts, palette = [], colours(results)
    for task in results.options["tasks"]:
        records = [r for r in results.stream if r.task == task]
        if records:
            bars = [(r.engine, r.users_per_s) for r in records]
            title = f"{task}: {records[0].users:,} users in one call"
            own_colours = [palette[r.engine] for r in records]
            charts.append(bar_chart(title, "users per second, more is better", bars, own_colours, short))
    return charts


def tradeoff_charts(results: Results) -> list[str]:
    """Accuracy against speed at the largest batch size, one chart per ranking task.

    Only engines whose accuracy was measured on the same users are drawn: those of the most users. The accuracy is
    HR@10, or, where a model hits nothing, how much of podx's top ten an engine finds.
    """
    charts, palette = [], colours(results)
    for task in results.options["tasks"]:
        size = max((r.batch_size for r in results.speed if r.task == task), default=0)
        speed = {r.engine: r.users_per_s for r in results.speed if (r.task, r.batch_size) == (task, size)}
        rows = [r for r in results.accuracy if r.task == task and r.engine in speed]
        rows = [r for r in rows if r.users == max(row.users for row in rows)]
        if task == Task.EXPLANATION or len(rows) < LEAST_PLACES:
            continue
        hits = any(row.metrics["hr_10"] for row in rows)
        places = [(row.engine, row.metrics["hr_10"] if hits else _own_overlap(row)) for row in rows]
        points = [Line(name, ((speed[name], y),), palette[name]) for name, y in places if y is not None]
        if len(points) >= LEAST_PLACES:
            title = f"{task}: speed and accuracy, up and right is better"
            what = "HR@10" if hits else f"share of {OURS}'s top 10"
            charts.append(point_chart(title, (f"users per second, batch size {size}", what), points))
    return charts


def _own_overlap(record: AccuracyRecord) -> float | None:
    if record.engine == OURS:
        return 1.0
    return record.overlap if record.overlap_with == OURS else None


def accuracy_charts(results: Results) -> list[str]:
    """HR@10 of every row, one chart per ranking task."""
    charts, palette = [], colours(results)
    for task in results.options["tasks"]:
        rows = [r for r in results.accuracy if r.task == task]
        if rows and task != Task.EXPLANATION:
            bars = [(f"{r.engine}, {r.users:,} users", r.metrics["hr_10"]) for r in rows]
            own_colours = [palette.get(r.engine, BASELINE_COLOUR) for r in rows]
            charts.append(bar_chart(f"{task}, test split", "HR@10, more is better", bars, own_colours, "{:.4f}".format))
    return charts
