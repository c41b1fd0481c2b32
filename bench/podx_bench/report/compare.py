"""Several runs side by side.

Runs with the same label, as of several seeds, are put together: mean ± standard deviation. The page has the charts of
the first run of each label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS, Task
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import MILLISECONDS, NONE, NOT_MEASURED, RANKING_COLUMNS, TEXT_COLUMNS, TextTable
from podx_bench.report.bench import report_charts
from podx_bench.report.ratios import ratio_cells, ratio_table

TITLE = "podx bench: runs compared"
SPEED_COLUMNS = ("ms/user", "× encode-once", "× as-published")
RATIOS_ONLY = ("Only the ratios compare between runs.",)
Groups = Mapping[str, Sequence[Results]]
Record = AccuracyRecord | SpeedRecord | StreamRecord
Select = Callable[[Results], Iterable[Record]]
"""The records of a run that a table is about."""


def grouped(runs: Sequence[Results]) -> dict[str, list[Results]]:
    """Runs by label and source length, in the order in which these first come."""
    groups: dict[str, list[Results]] = {}
    for run in runs:
        length = run.options.get("source_length")
        groups.setdefault(run.label if length is None else f"{run.label}, source {length}", []).append(run)
    return groups


def _records(groups: Groups, select: Select) -> dict[str, list[Record]]:
    """Records of each group that has any."""
    records = {label: [record for run in runs for record in select(run)] for label, runs in groups.items()}
    return {label: found for label, found in records.items() if found}


def _rows(groups: Groups, select: Select) -> Iterator[tuple[str, str, list[Record]]]:
    """Engine, group and the engine's records there; none where it was asked for and not measured.

    Engines come in the order of the runs, which list rows that learn nothing last.
    """
    records = _records(groups, select)
    having = {record.engine for found in records.values() for record in found}
    engines = dict.fromkeys(name for label in records for run in groups[label] for name in run.engines)
    for engine in (name for name in engines if name in having):
        for label, found in records.items():
            if any(engine in run.engines for run in groups[label]):
                yield engine, label, [record for record in found if record.engine == engine]


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean, with the sample standard deviation where there are several values."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _users(records: Sequence[Record]) -> str:
    return " / ".join(f"{count:,}" for count in sorted({getattr(record, "users", 0) for record in records}))


def overview_table(groups: Groups, task: Task) -> TextTable:
    """HR@10 / NDCG@10 of every engine on a ranking task, a column per group that measured it."""
    select = _accuracy_of(task)
    labels = list(_records(groups, select))
    cells: dict[str, dict[str, str]] = {}
    for engine, label, records in _rows(groups, select) if task is not Task.EXPLANATION else ():
        metrics = [[record.metrics[key] for record in records] for key in ("hr_10", "ndcg_10")]  # type: ignore[union-attr]
        found = " / ".join(_spread(values, 4) for values in metrics) if records else NOT_MEASURED
        cells.setdefault(engine, {})[label] = found
    rows = tuple((engine, *(found.get(label, NOT_MEASURED) for label in labels)) for engine, found in cells.items())
    return TextTable(f"Overview, {task}: HR@10 / NDCG@10", ("engine", *labels), rows, ("Users and runs: below.",))


def _accuracy_of(task: Task) -> Select:
    return lambda run: (record for record in run.accuracy if record.task == task)


def accuracy_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's accuracy on a task, the groups beneath one another."""
    columns, digits = (TEXT_COLUMNS, 3) if task is Task.EXPLANATION else (RANKING_COLUMNS, 4)
    rows = []
    for engine, label, records in _rows(groups, _accuracy_of(task)):
        cells = [NOT_MEASURED, *[NONE] * len(columns)]
        if records:
            metrics = [[record.metrics[key] for record in records] for key, _ in columns]  # type: ignore[union-attr]
            cells = [_users(records), *(_spread(values, digits) for values in metrics)]
        rows.append((engine, label, str(len(records)), *cells))
    header = ("engine", "run", "runs", "users", *(title for _, title in columns))
    return TextTable(f"Accuracy, {task}", header, tuple(rows), ("Several runs: mean ± standard deviation.",))


def speed_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's time per user, and how many times as fast as the baselines it is."""
    rows = []
    for size in sorted({r.batch_size for runs in groups.values() for run in runs for r in run.speed if r.task == task}):
        for engine, label, records in _rows(groups, _speed_of(task, size)):
            rows.append((engine, label, str(size), str(len(records)), *_speed_cells(records)))
    return TextTable(f"Speed, {task}", ("engine", "run", "batch", "runs", *SPEED_COLUMNS), tuple(rows), RATIOS_ONLY)


def _speed_of(task: Task, size: int) -> Select:
    return lambda run: (record for record in run.speed if (record.task, record.batch_size) == (task, size))


def stream_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's rate where it got all users in one call."""
    found = _rows(groups, lambda run: (record for record in run.stream if record.task == task))
    rows = [
        (engine, label, _users(records), str(len(records)), *_speed_cells(records)) for engine, label, records in found
    ]
    header = ("engine", "run", "users", "runs", *SPEED_COLUMNS)
    return TextTable(f"All users in one call, {task}", header, tuple(rows), RATIOS_ONLY)


def _speed_cells(records: Sequence[Record]) -> list[str]:
    """Time per user and the ratios; records: of speed or of streams."""
    if not records:
        return [NOT_MEASURED, NONE, NONE]
    cells = [_spread([MILLISECONDS / record.users_per_s for record in records], 2)]  # type: ignore[union-attr]
    for key in ("ratio_vs_encode_once", "ratio_vs_as_published"):
        ratios = [value for record in records if (value := getattr(record, key)) is not None]
        cells.append(_spread(ratios, 2) if ratios else NONE)
    return cells


def comparison(runs: Sequence[Results]) -> list[TextTable]:
    """All tables that the runs can fill.

    Raises:
        ConfigError: there is nothing to compare.
    """
    groups = grouped(runs)
    makers = (overview_table, accuracy_table, speed_table, stream_table)
    tables = [table for task in ALL_TASKS for make in makers if (table := make(groups, task)).rows]
    if not tables:
        raise ConfigError("the runs hold neither speed nor accuracy records: give results of finished runs")
    return [*([ratio_table(runs)] if any(any(ratio_cells(run)) for run in runs) else []), *tables]


def comparison_report(runs: Sequence[Results], extra: Sequence[Section] = ()) -> Report:
    """The report of several runs: the first table and chart, the other tables, charts by run, machines."""
    first, *others = comparison(runs)
    charts = {label: report_charts(group[0]) for label, group in grouped(runs).items()}
    opening = next((found[0] for found in charts.values() if found), None)
    sections = [
        Section(tuple(chart for chart in found if chart is not opening), title=f"Charts, {label}")
        for label, found in charts.items()
        if set(found) - {opening}
    ]
    return Report(
        title=TITLE,
        headline=f"{first.title}: {_range(first)}" if first.rows else "",
        sections=(
            Section((opening,) if opening else (), (first,)),
            Section(tables=tuple(others)),
            *extra,
            *sections,
        ),
        facts=(("Runs and machines", run_facts(runs)),),
    )


def _range(table: TextTable) -> str:
    """The first and the last row of the first table in words."""
    rows = dict.fromkeys((table.rows[0], table.rows[-1]))
    return "; ".join(
        f"{row[0]}: " + ", ".join(f"{name} {cell}" for name, cell in zip(table.header[1:], row[1:], strict=True))
        for row in rows
    )


def run_facts(runs: Sequence[Results]) -> list[tuple[str, str]]:
    """Of each group: data and machine of its first run."""
    return [
        (
            label,
            f"{len(group)} run(s); {group[0].dataset['users']:,} users, {group[0].dataset['items']:,} items, "
            f"{group[0].dataset['scheme']} ids; {group[0].environment['cpu']}, "
            f"{group[0].environment.get('instruction_set') or 'int8 instructions not known'}, "
            f"{group[0].environment['threads']} threads, {group[0].environment['device']}",
        )
        for label, group in grouped(runs).items()
    ]
