"""Bars, lines and points as SVG text, to stand inside an HTML page.

Drawings are narrow, so that their text is still legible where a phone shows them at its full width.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

WIDTH_IN, PLOT_HEIGHT_IN = 4.0, 2.6
ROW_IN, FRAME_IN, LEGEND_ROW_IN = 0.32, 0.9, 0.17
TEXT, TITLE = 8, 9
LEGEND_COLUMNS = 2
HEADROOM = 1.15
MOST_TICKS = 5
"""Figures along a bar chart's axis that a phone has room for."""
DECADES = (1.0, 2.0, 5.0)
OURS_COLOUR, OTHER_COLOUR = "#0b7a75", "#b8c4cc"
OURS_COLOURS = (OURS_COLOUR, "#2fb5a5", "#075450", "#7bcf5a", "#46e0c8")
OTHER_COLOURS = ("#8a97a3", "#d1783c", "#5b6fb5", "#b5577d", "#c9a227", "#6d5a4e", "#3c4650")
ROOFLINE_COLOUR = "#c2352b"
BASELINE_COLOUR = "#d5dce2"
"""Of rows that learn nothing."""
MARKERS = "os^Dv<>P"
DASHES = ("--", ":")
ERROR_STYLE = {"ecolor": "#1d2730", "elinewidth": 1, "capsize": 2}
FIXED_IDS = "podx"
"""What the ids inside a drawing are made from, so that the same results give the same file."""
_SVG_START = re.compile(r"^.*?(?=<svg)", re.DOTALL)
Bars = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Line:
    """A named series of points (x, y). ``dashed``: a bound and not a measurement, drawn without markers."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashed: bool = False


def lines_through(
    points: Iterable[tuple[str, tuple[float, float]]], colours: Mapping[str, str], dashed: bool = False
) -> list[Line]:
    """A line for each name, through its points in their order."""
    named: dict[str, list[tuple[float, float]]] = {}
    for name, point in points:
        named.setdefault(name, []).append(point)
    return [Line(name, tuple(places), colours[name], dashed) for name, places in named.items()]


def bar_chart(
    title: str,
    unit: str,
    bars: Bars,
    colours: Sequence[str],
    number: Callable[[float], str],
    bounds: Bars = (),
    errors: Sequence[float] | None = None,
) -> str:
    """Horizontal bars from top to bottom, each with its figure, and dashed lines at named bounds.

    Args:
        errors: half the length of each bar's error line; None: no lines.
    """
    figure, axes = _axes(FRAME_IN + ROW_IN * len(bars), title, unit)
    names = ["\n".join(name.rsplit(", ", 1)) for name, _ in bars]  # two lines at most, or they run into each other
    values = [value for _, value in bars]
    drawn = axes.barh(range(len(bars)), values, color=colours, xerr=errors, error_kw=ERROR_STYLE)
    axes.bar_label(drawn, labels=[number(value) for value in values], padding=3, fontsize=TEXT)
    for place, (name, value) in enumerate(bounds):
        axes.axvline(value, color=ROOFLINE_COLOUR, linestyle=DASHES[place % 2], linewidth=1, label=name)
    if bounds:
        _legend(figure)
    axes.set_yticks(range(len(bars)), names, fontsize=TEXT)
    axes.invert_yaxis()
    axes.margins(x=0.22, y=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    return _svg(figure)


def line_chart(title: str, axis_names: tuple[str, str], lines: Sequence[Line], ticks: Sequence[float] = ()) -> str:
    """Lines over two logarithmic axes, their names below. ``ticks``: of the x axis; empty: 1, 2, 5 of each decade."""
    figure, axes = _plot(title, axis_names, len(lines))
    for place, line in enumerate(lines):
        xs, ys = zip(*line.points, strict=True)
        marker = None if line.dashed else MARKERS[place % len(MARKERS)]
        style = DASHES[place % 2] if line.dashed else "-"
        axes.plot(xs, ys, style, color=line.colour, marker=marker, markersize=4, linewidth=1.4, label=line.name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=DECADES))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    if ticks:
        axes.set_xticks(list(ticks), [f"{value:g}" for value in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    _legend(figure)
    return _svg(figure)


def point_chart(title: str, axis_names: tuple[str, str], points: Sequence[Line]) -> str:
    """One named point of each series, over axes that begin at zero, the names below."""
    figure, axes = _plot(title, axis_names, len(points))
    for place, line in enumerate(points):
        axes.plot(*line.points[0], MARKERS[place % len(MARKERS)], color=line.colour, markersize=7, label=line.name)
    xs, ys = zip(*(line.points[0] for line in points), strict=True)
    axes.set_xlim(0, HEADROOM * max(xs))
    axes.set_ylim(0, HEADROOM * max(ys))
    _legend(figure)
    return _svg(figure)


def _axes(height_in: float, title: str, across: str) -> tuple[Figure, Axes]:
    """A figure with its title over the whole width, and axes without a frame where there is no axis."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes: Axes = figure.subplots()
    figure.suptitle(title, fontsize=TITLE, x=0.02, ha="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(across, fontsize=TEXT)
    axes.tick_params(labelsize=TEXT)
    return figure, axes


def _plot(title: str, axis_names: tuple[str, str], series: int) -> tuple[Figure, Axes]:
    """Axes of a plot with room for the names of so many series below it."""
    figure, axes = _axes(PLOT_HEIGHT_IN - LEGEND_ROW_IN * (-series // LEGEND_COLUMNS), title, axis_names[0])
    axes.set_ylabel(axis_names[1], fontsize=TEXT)
    axes.grid(alpha=0.3)
    return figure, axes


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=TEXT, frameon=False)


def _svg(figure: Figure) -> str:
    """The figure without date and random ids, so that the same results give the same file."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": FIXED_IDS, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _SVG_START.sub("", stream.getvalue())
