"""The chart of a study, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from podx.text.templates import Task
from podx_bench.harness.record_file import PARTIAL_SUFFIX
from podx_bench.pages.drawing import HEADROOM, MARKERS, OTHER_COLOURS, OURS_COLOURS, TEXT, TITLE, WIDTH_IN, svg
from podx_bench.study.record import MEASURED, PointRecord, SweepResults

PNG_FILE, SVG_FILE = "study.png", "study.svg"
PNG_DPI = 200
PANEL_IN = 2.1
RANKING = (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10"))
TEXTS = (("bleu_4", "BLEU-4"), ("rouge_1", "ROUGE-1"), ("rouge_l", "ROUGE-L"))
TIME = "ms per user"

Series = tuple[str, list[float]]


def save_figure(figure: Figure, folder: Path) -> str:
    """Write both files; returns the SVG."""
    drawing = svg(figure)
    for name, kind in ((SVG_FILE, "svg"), (PNG_FILE, "png")):
        partial = folder / (name + PARTIAL_SUFFIX)
        if kind == "svg":
            partial.write_text(drawing, encoding="utf-8")
        else:
            figure.savefig(partial, format="png", dpi=PNG_DPI, metadata={"Software": None})
        partial.replace(folder / name)
    return drawing


def sweep_figure(results: SweepResults) -> Figure | None:
    """A panel for the accuracy of each task and one for the times, over the values; None: nothing was measured."""
    points = [point for point in results.points if point.state == MEASURED]
    if not points:
        return None
    panels = [(f"{task}: accuracy", _accuracy(points, task), OURS_COLOURS) for task in results.tasks]
    times = [
        (str(task), [point.ms_per_user[task] for point in points]) for task in results.tasks if _timed(points, task)
    ]
    if times:
        panels.append((f"{TIME}, less is better", times, OTHER_COLOURS))
    figure = Figure(figsize=(WIDTH_IN, PANEL_IN * len(panels) + 0.4), layout="constrained")
    figure.suptitle(results.sweep["title"], fontsize=TITLE, x=0.02, ha="left")
    for axes, (title, series, colours) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _panel(axes, title, [point.label for point in points], series, colours)
    axes.set_xlabel(results.sweep["axis"], fontsize=TEXT)
    return figure


def _timed(points: Sequence[PointRecord], task: Task) -> bool:
    return all(task in point.ms_per_user for point in points)


def _accuracy(points: Sequence[PointRecord], task: Task) -> list[Series]:
    metrics = TEXTS if task is Task.EXPLANATION else RANKING
    return [(title, [point.accuracy[task][key] for point in points]) for key, title in metrics]


def _panel(axes: Axes, title: str, labels: list[str], series: Sequence[Series], colours: Sequence[str]) -> None:
    """Values stand evenly spaced, as in the paper's figure."""
    places = list(range(len(labels)))
    for number, (name, values) in enumerate(series):
        colour, marker = colours[number % len(colours)], MARKERS[number % len(MARKERS)]
        axes.plot(places, values, marker=marker, markersize=4, linewidth=1.4, color=colour, label=name)
    top = max(max(values) for _, values in series)
    axes.set_ylim(0, HEADROOM * top if top > 0 else 1)
    axes.set_xlim(-0.3, len(labels) - 0.7)
    axes.set_xticks(places, [label.replace(", ", "\n") for label in labels])
    axes.tick_params(labelsize=TEXT)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=TEXT, loc="left")
    axes.legend(fontsize=TEXT, frameon=False, ncols=len(series))
