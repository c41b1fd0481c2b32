"""The tables and the page of a sweep, from ``study.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from podx.text.templates import Task
from podx_bench.accuracy_report.tables import REPORTED, digits, metric_columns
from podx_bench.harness.record_file import PARTIAL_SUFFIX
from podx_bench.latency.speed import paired_ratio
from podx_bench.pages.render import html_facts, html_page, html_table
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.published import TABLE_6
from podx_bench.study.chart import save_figure, sweep_figure
from podx_bench.study.record import MEASURED, PointRecord, SweepResults

HTML_FILE = "report.html"
INFERENCE = "inference"
NO_ROW = "\n"
"""Begins no label: no row of these tables is tinted."""
Facts = list[tuple[str, str]]


def sweep_tables(results: SweepResults) -> list[TextTable]:
    """How each value was trained, then a table per task."""
    return [_training_table(results), *(_task_table(results, task) for task in results.tasks)]


def _training_table(results: SweepResults) -> TextTable:
    rows = tuple(
        (
            point.label,
            " ".join((*point.train, *point.export)) or NONE,
            point.state,
            f"{point.minutes:.1f}",
            *(NONE if value is None else f"{value:,}" for value in (point.updates, point.best_epoch, point.parameters)),
        )
        for point in results.points
    )
    header = (results.sweep["axis"], "options", "state", "minutes", "updates", "best epoch", "parameters")
    notes = ["Minutes: of the training's process, loading and validation included."]
    if results.extra:
        notes.append(f"Every training: podx train {' '.join(results.extra)}")
    return TextTable(results.sweep["title"], header, rows, (results.sweep["note"], *notes, *results.notes))


def _task_table(results: SweepResults, task: Task) -> TextTable:
    points = [point for point in results.points if task in point.accuracy]
    rows = _reported(task) if results.sweep["name"] == INFERENCE else []
    rows += [_row(point, points[0], task) for point in points]
    columns = [title for _, title in metric_columns(task)]
    header = (results.sweep["axis"], "records" if task is Task.EXPLANATION else "users", *columns, "ms/user", "×")
    options = results.options
    notes = [
        f"Test split, search inside the catalogue. ms/user: all bundles in turns, {options['rounds']} rounds, batch "
        f"size {options['batch_size']}, {options['timed_users']} users at most, {options['device']}. ×: how many times "
        f"as fast as the first row that was measured here, median of the rounds' ratios."
    ]
    notes += [f"{point.label}: {point.template[task]}" for point in points if task in point.template]
    if results.sweep["name"] == INFERENCE:
        notes.append(f"{REPORTED}: by the paper on Sports; its time is that of the whole test set on a V100S.")
    return TextTable(f"{results.sweep['title']}, {task}", header, tuple(rows), tuple(notes))


def _row(point: PointRecord, first: PointRecord, task: Task) -> tuple[str, ...]:
    metrics = point.accuracy[task]
    ratio = paired_ratio(first.round_ms.get(task), point.round_ms.get(task, ()))
    time = point.ms_per_user.get(task)
    return (
        point.label,
        f"{point.users[task]:,}",
        *(f"{metrics[key]:.{digits(task)}f}" for key, _ in metric_columns(task)),
        NONE if time is None else short(time),
        NONE if ratio is None else f"{ratio:.2f}×",
    )


def _reported(task: Task) -> list[tuple[str, ...]]:
    """Rows of the paper's Table 6."""
    rows = []
    for row in TABLE_6:
        if row.task is task:
            found = [
                f"{row.metrics[k]:.{digits(task)}f}" if k in row.metrics else NONE for k, _ in metric_columns(task)
            ]
            rows.append((f"{row.method} ({REPORTED})", NONE, *found, row.time or NONE, NONE))
    return rows


def environment_facts(
    environment: Mapping[str, Any], dataset: Mapping[str, Any], more: Sequence[tuple[str, str]] = ()
) -> Facts:
    """What a reader must know of machine and data."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return [
        ("processor", f"{environment['cpu']}, {environment['usable_cores']} usable cores"),
        ("memory", f"{environment['memory_gb']} GB"),
        ("graphics", environment["gpu"] or "none"),
        ("device", f"{environment['device']}, {environment['threads']} threads"),
        ("versions", f"podx {environment['podx']} ({environment['podx_commit'] or 'no commit known'}), {packages}"),
        (
            "data",
            f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items, {dataset['interactions']:,} "
            f"interactions, {dataset['scheme']} ids",
        ),
        *more,
    ]


def write_page(folder: Path, title: str, body: Sequence[str]) -> Path:
    """Write ``report.html`` under a temporary name and rename it; returns its path."""
    page = folder / HTML_FILE
    partial = folder / (HTML_FILE + PARTIAL_SUFFIX)
    partial.write_text(html_page(title, body), encoding="utf-8")
    partial.replace(page)
    return page


def write_sweep(results: SweepResults, folder: Path) -> Path:
    """Write chart and page; returns the path of the page. Without any measurement there is no chart."""
    figure = sweep_figure(results)
    drawings = [] if figure is None else [save_figure(figure, folder)]
    unfinished = [point.label for point in results.points if point.state != MEASURED]
    told = [("not measured", ", ".join(unfinished))] if unfinished else []
    body = [html_facts(environment_facts(results.environment, results.dataset, told)), *drawings]
    body += [html_table(table, NO_ROW) for table in sweep_tables(results)]
    return write_page(folder, results.sweep["title"], body)
