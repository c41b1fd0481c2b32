"""``report.html``, ``report.md`` and the charts as files, from ``accuracy.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path

from podx.atomic import write_text
from podx.text.templates import Task
from podx_bench.accuracy.published import NUMBERED, published_rows
from podx_bench.accuracy.records import AccuracyResults
from podx_bench.accuracy.rows import LEARNS_NOTHING, MODEL, PEER, PODX, Method, leaks, methods
from podx_bench.accuracy.tables import REPORTED, all_tables, dataset_name
from podx_bench.harness.records import CONSTRAINED
from podx_bench.pages.about import machine_rows, plain
from podx_bench.pages.drawing import BASELINE_COLOUR, OTHER_COLOUR, OURS_COLOUR, bar_chart
from podx_bench.pages.render import Report, Section, write_report
from podx_bench.pages.table import mean_and_deviation
from podx_bench.workload.baselines import NEAR_USERS, NEXT_NUMBER

TITLE = "podx bench accuracy"
LEAK_COLOUR, LEAK_REPORTED_COLOUR, LEAK_BASELINE_COLOUR = "#c2352b", "#d98a83", "#eac4c0"
"""Of rows whose ids give the held-out item away: our models, reported ones, and those that learn nothing."""
METRIC = "hr_10"
UNIT = "mean and deviation of the seeds"
FROM_NUMBERS = (NEXT_NUMBER, NEAR_USERS)
"""Rows that know nothing but the numbers; the others are the same under every id scheme and are drawn once."""
NO_LINE = float("nan")


def environments(results: AccuracyResults) -> list[tuple[str, str]]:
    """The machines that measured, each once with the models it measured, and how."""
    machines: dict[str, dict[str, None]] = {}
    for record in results.models:
        rows = [*machine_rows(record.environment), ("measured with", plain(record.options))]
        said = "; ".join(f"{name} {value}" for name, value in rows)
        machines.setdefault(said, {})[record.label] = None
    return [(", ".join(labels), said) for said, labels in machines.items()]


def headline(results: AccuracyResults) -> str:
    """The best row of sequential recommendation whose ids do not leak, beside the best that learns nothing."""
    rows = [row for row in methods(results, Task.SEQUENTIAL, CONSTRAINED) if not leaks(row.dataset)]
    bests = []
    for kind, what in ((MODEL, "Best model"), (PEER, "best peer"), (LEARNS_NOTHING, "best row that learns nothing")):
        scored = [(mean_and_deviation(row.values(METRIC))[0], row) for row in rows if row.kind == kind]
        if scored:
            score, row = max(scored, key=lambda pair: pair[0])
            bests.append(f"{what}: {row.name} on {row.dataset.scheme} ids, HR@10 {score:.4f}")
    return f"Sequential recommendation where ids do not leak. {'; '.join(bests)}." if bests else ""


def write_accuracy(results: AccuracyResults, folder: Path) -> Path:
    """Write report and charts; returns the path of the page."""
    drawings = accuracy_charts(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", drawing)
    sections = (Section(tuple(drawings.values())), Section(tables=tuple(all_tables(results))))
    facts = (("Machines that measured", environments(results)),)
    return write_report(Report(TITLE, headline(results), sections, facts, results.notes, PODX), folder)


def accuracy_charts(results: AccuracyResults) -> dict[str, str]:
    """A chart per ranking task that was measured, by the name of its file."""
    measured = {task: methods(results, task, CONSTRAINED) for task in (Task.SEQUENTIAL, Task.TOPN)}
    return {f"hr10-{task}": _chart(results, task, rows) for task, rows in measured.items() if rows}


def _chart(results: AccuracyResults, task: Task, rows: list[Method]) -> str:
    name = dataset_name(results)
    bars = [
        (
            f"{row.method} ({REPORTED})",
            row.metrics[METRIC],
            LEAK_REPORTED_COLOUR if row.method in NUMBERED else OTHER_COLOUR,
        )
        for row in published_rows(name, task)
    ]
    errors = [NO_LINE] * len(bars)
    drawn: set[str] = set()
    for row in rows:
        by_scheme = row.kind == MODEL or row.name in FROM_NUMBERS
        if row.kind == LEARNS_NOTHING and not by_scheme:
            if row.name in drawn:
                continue
            drawn.add(row.name)
        mean, deviation = mean_and_deviation(row.values(METRIC))
        bars.append((f"{row.name}, {row.dataset.scheme} ids" if by_scheme else row.name, mean, _colour(row)))
        errors.append(NO_LINE if deviation is None else deviation)
    title = f"{task}{f', {name}' if name else ''}: HR@10; red: ids leak"
    colours = [colour for *_, colour in bars]
    return bar_chart(title, UNIT, [bar[:2] for bar in bars], colours, "{:.4f}".format, errors=errors)


def _colour(row: Method) -> str:
    leaky = leaks(row.dataset)
    if row.kind == LEARNS_NOTHING:
        return LEAK_BASELINE_COLOUR if leaky and row.name in FROM_NUMBERS else BASELINE_COLOUR
    if row.kind == MODEL:
        return LEAK_COLOUR if leaky else OURS_COLOUR
    return OTHER_COLOUR
