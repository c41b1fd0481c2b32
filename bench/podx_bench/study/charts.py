"""Charts of an accuracy report: HR@10 of every row, the rows that leak in a colour of their own."""

from __future__ import annotations

from matplotlib.figure import Figure

from podx.tasks import Task
from podx_bench.charts import BASELINE_COLOUR
from podx_bench.drawing import OTHER_COLOUR, OURS_COLOUR, bar_figure
from podx_bench.published import NUMBERED, published_rows
from podx_bench.study.records import CONSTRAINED, Study
from podx_bench.study.rows import LEARNS_NOTHING, MODEL, Row, leaks, mean_and_deviation, rows_of
from podx_bench.study.tables import REPORTED, dataset_name

LEAK_COLOUR, LEAK_REPORTED_COLOUR, LEAK_BASELINE_COLOUR = "#c2352b", "#d98a83", "#eac4c0"
"""Of rows whose ids give the held-out item away: our models, reported ones, and those that learn nothing."""
METRIC = "hr_10"


def study_figures(study: Study) -> dict[str, Figure]:
    """A chart per ranking task that was measured, by the name of its file."""
    figures = {}
    for task in (Task.SEQUENTIAL, Task.TOPN):
        rows = rows_of(study, task, CONSTRAINED)
        if rows:
            figures[f"hr10-{task}"] = _figure(study, task, rows)
    return figures


def _figure(study: Study, task: Task, rows: list[Row]) -> Figure:
    name = dataset_name(study)
    bars: list[tuple[str, float]] = []
    colours: list[str] = []
    errors: list[float] = []
    for reported in published_rows(name, task) if name else []:
        bars.append((f"{reported.method} ({REPORTED})", reported.metrics[METRIC]))
        colours.append(LEAK_REPORTED_COLOUR if reported.method in NUMBERED else OTHER_COLOUR)
        errors.append(0.0)
    for row in rows:
        mean, deviation = mean_and_deviation(row.values(METRIC))
        bars.append((f"{row.name}, {row.dataset.scheme} ids", mean))
        colours.append(_colour(row))
        errors.append(deviation or 0.0)
    title = f"{task}{f', {name}' if name else ''}: HR@10; red: ids leak"
    return bar_figure(title, "HR@10, mean and standard deviation of the seeds", bars, colours, _number, errors=errors)


def _colour(row: Row) -> str:
    leaky = leaks(row.dataset)
    if row.kind == LEARNS_NOTHING:
        return LEAK_BASELINE_COLOUR if leaky else BASELINE_COLOUR
    if row.kind == MODEL:
        return LEAK_COLOUR if leaky else OURS_COLOUR
    return OTHER_COLOUR


def _number(value: float) -> str:
    return f"{value:.4f}"
