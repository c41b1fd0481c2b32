"""Charts of a run as SVG text, to stand inside an HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from podx.tasks import Task
from podx_bench.engines import OURS
from podx_bench.results import Results
from podx_bench.tables import short

WIDTH_IN = 6.4
ROW_IN = 0.32
FRAME_IN = 0.9
OURS_COLOUR, OTHER_COLOUR = "#0b7a75", "#b8c4cc"
FIXED_IDS = "podx"
_SVG_START = re.compile(r"^.*?(?=<svg)", re.DOTALL)
Bars = list[tuple[str, float]]


def _bar_chart(title: str, unit: str, bars: Bars, number: Callable[[float], str]) -> str:
    """Horizontal bars from top to bottom, each with its figure."""
    figure = Figure(figsize=(WIDTH_IN, FRAME_IN + ROW_IN * len(bars)), layout="constrained")
    axes: Axes = figure.subplots()
    names, values = [name for name, _ in bars], [value for _, value in bars]
    places = range(len(bars))
    colours = [OURS_COLOUR if name.split(",")[0].startswith(OURS) else OTHER_COLOUR for name in names]
    drawn = axes.barh(places, values, color=colours)
    axes.bar_label(drawn, labels=[number(value) for value in values], padding=3, fontsize=9)
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel(unit, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure without date and random ids, so that the same results give the same file."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": FIXED_IDS, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _SVG_START.sub("", stream.getvalue())


def speed_charts(results: Results) -> list[str]:
    """Time per user of every engine, one chart per task and batch size."""
    charts = []
    for task in results.options["tasks"]:
        for size in results.options["batch_sizes"]:
            bars = [(r.engine, r.ms_per_user) for r in results.speed if (r.task, r.batch_size) == (task, size)]
            if bars:
                charts.append(_bar_chart(f"{task}, batch size {size}", "ms per user, less is better", bars, short))
    return charts


def accuracy_charts(results: Results) -> list[str]:
    """HR@10 of every row, one chart per ranking task."""
    charts = []
    for task in results.options["tasks"]:
        rows = [r for r in results.accuracy if r.task == task]
        if rows and task != Task.EXPLANATION:
            bars = [(f"{r.engine}, {r.users:,} users", r.metrics["hr_10"]) for r in rows]
            charts.append(_bar_chart(f"{task}, test split", "HR@10, more is better", bars, "{:.4f}".format))
    return charts
