"""Charts of an accuracy report: HR@10 of every row, the rows that leak in a colour of their own."""

from __future__ import annotations

from matplotlib.figure import Figure

from podx.text.templates import Task
from podx_bench.accuracy_report.records import CONSTRAINED, Study
from podx_bench.accuracy_report.rows import LEARNS_NOTHING, MODEL, Row, leaks, mean_and_deviation, rows_of
from podx_bench.accuracy_report.tables import REPORTED, dataset_name
from podx_bench.pages.drawing import BASELINE_COLOUR, OTHER_COLOUR, OURS_COLOUR, bar_figure
from podx_bench.published import NUMBERED, published_rows
from podx_bench.workload.baselines import NEAR_USERS, NEXT_NUMBER

LEAK_COLOUR, LEAK_REPORTED_COLOUR, LEAK_BASELINE_COLOUR = "#c2352b", "#d98a83", "#eac4c0"
"""Of rows whose ids give the held-out item away: our models, reported ones, and those that learn nothing."""
METRIC = "hr_10"
UNIT = "mean and deviation of the seeds"
FROM_NUMBERS = (NEXT_NUMBER, NEAR_USERS)
"""Rows that know nothing but the numbers; the others are the same under every id scheme and are drawn once."""
NO_LINE = float("nan")


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
        errors.append(NO_LINE)
    for row in _once(rows):
        mean, deviation = mean_and_deviation(row.values(METRIC))
        bars.append((f"{row.name}, {row.dataset.scheme} ids" if _by_scheme(row) else row.name, mean))
        colours.append(_colour(row))
        errors.append(NO_LINE if deviation is None else deviation)
    title = f"{task}{f', {name}' if name else ''}: HR@10; red: ids leak"
    return bar_figure(title, UNIT, bars, colours, _number, errors=errors)


def _once(rows: list[Row]) -> list[Row]:
    """Rows without the repetitions of those that learn nothing and know no numbers."""
    known: set[str] = set()
    kept = []
    for row in rows:
        if row.kind != LEARNS_NOTHING or _by_scheme(row) or row.name not in known:
            kept.append(row)
        known.add(row.name)
    return kept


def _by_scheme(row: Row) -> bool:
    """Whether the figure hangs on how users and items are written."""
    return row.kind == MODEL or row.name in FROM_NUMBERS


def _colour(row: Row) -> str:
    leaky = leaks(row.dataset)
    if row.kind == LEARNS_NOTHING:
        return LEAK_BASELINE_COLOUR if leaky and row.name in FROM_NUMBERS else BASELINE_COLOUR
    if row.kind == MODEL:
        return LEAK_COLOUR if leaky else OURS_COLOUR
    return OTHER_COLOUR


def _number(value: float) -> str:
    return f"{value:.4f}"
