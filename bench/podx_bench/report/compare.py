"""Several runs side by side.

Runs with the same label, as of several seeds, are put together: mean ± standard deviation. The page has the charts of
the first run of each label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS, Task
from podx_bench.harness.records import Results
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import NOT_MEASURED, USERS, Row, TextTable, figures_table, metric_columns
from podx_bench.report.charts import report_charts
from podx_bench.report.ratios import ratio_headline, ratio_table
from podx_bench.report.tables import MS_PER_USER, RATIOS, Record, users_column

TITLE = "podx bench: runs compared"
SPEED_COLUMNS = (MS_PER_USER, *RATIOS)
RATIOS_ONLY = ("Only the ratios compare between runs.",)
SEVERAL = ("Several runs: mean ± standard deviation.",)
Groups = Mapping[str, Sequence[Results]]
Select = Callable[[Results], Iterable[Record]]
"""The records of a run that a table is about."""


def grouped(runs: Sequence[Results]) -> dict[str, list[Results]]:
    """Runs by label and source length, in the order in which these first come."""
    groups: dict[str, list[Results]] = {}
    for run in runs:
        length = run.options.get("source_length")
        groups.setdefault(run.label if length is None else f"{run.label}, source {length}", []).append(run)
    return groups


def _rows(groups: Groups, select: Select) -> Iterator[Row]:
    """A row for each engine and group: name of both, and the engine's records there.

    Groups without any record are left out; engines come in the order of the runs, which list rows that learn nothing
    last. An engine that was asked for and has no record is not measured.
    """
    selected = {label: [record for run in runs for record in select(run)] for label, runs in groups.items()}
    having = {record.engine for records in selected.values() for record in records}
    engines = dict.fromkeys(name for label in selected for run in groups[label] for name in run.engines)
    for engine in (name for name in engines if name in having):
        for label, records in selected.items():
            if records and any(engine in run.engines for run in groups[label]):
                yield (engine, label), [record for record in records if record.engine == engine]


def _counted(rows: Iterable[Row], *more: str) -> Iterator[Row]:
    """With ``more`` and the number of runs behind the names."""
    return (((*names, *more, str(len(records))), records) for names, records in rows)


def _accuracy_of(task: Task) -> Select:
    return lambda run: (record for record in run.accuracy if record.task == task)


def overview_table(groups: Groups, task: Task) -> TextTable:
    """HR@10 / NDCG@10 of every engine on a ranking task, a column per group that measured it."""
    columns = [column for column in metric_columns(task) if column.title in ("HR@10", "NDCG@10")]
    cells: dict[str, dict[str, str]] = {}
    for (engine, label), records in _rows(groups, _accuracy_of(task)) if columns else ():
        figures = " / ".join(column.cell(records) for column in columns)
        cells.setdefault(engine, {})[label] = figures if records else NOT_MEASURED
    labels = list(dict.fromkeys(label for row in cells.values() for label in row))
    rows = tuple((engine, *(row.get(label, NOT_MEASURED) for label in labels)) for engine, row in cells.items())
    return TextTable(f"Overview, {task}: HR@10 / NDCG@10", ("engine", *labels), rows, ("Users and runs: below.",))


def accuracy_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's accuracy on a task, the groups beneath one another."""
    columns = (users_column(task), *metric_columns(task))
    rows = _counted(_rows(groups, _accuracy_of(task)))
    return figures_table(f"Accuracy, {task}", ("engine", "run", "runs"), rows, columns, SEVERAL)


def speed_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's time per user, and how many times as fast as the baselines it is."""

    def of(size: int) -> Select:
        return lambda run: (record for record in run.speed if (record.task, record.batch_size) == (task, size))

    sizes = sorted({r.batch_size for runs in groups.values() for run in runs for r in run.speed if r.task == task})
    rows = (row for size in sizes for row in _counted(_rows(groups, of(size)), str(size)))
    return figures_table(f"Speed, {task}", ("engine", "run", "batch", "runs"), rows, SPEED_COLUMNS, RATIOS_ONLY)


def stream_table(groups: Groups, task: Task) -> TextTable:
    """Every engine's rate where it got all users in one call."""
    found = _rows(groups, lambda run: (record for record in run.stream if record.task == task))
    rows = (((*names, USERS.cell(records), str(len(records))), records) for names, records in found)
    header = ("engine", "run", "users", "runs")
    return figures_table(f"All users in one call, {task}", header, rows, SPEED_COLUMNS, RATIOS_ONLY)


def comparison(runs: Sequence[Results]) -> list[TextTable]:
    """All tables that the runs can fill, the ratios first.

    Raises:
        ConfigError: there is nothing to compare.
    """
    groups = grouped(runs)
    makers = (overview_table, accuracy_table, speed_table, stream_table)
    tables = [table for task in ALL_TASKS for make in makers if (table := make(groups, task)).rows]
    if not tables:
        raise ConfigError("the runs hold neither speed nor accuracy records: give results of finished runs")
    return [*([ratio_table(runs)] if ratio_headline(runs) else []), *tables]


def comparison_report(runs: Sequence[Results], extra: Sequence[Section] = ()) -> Report:
    """The report of several runs: the first chart and table, the other tables, charts by run, machines."""
    first, *others = comparison(runs)
    charts = {label: report_charts(group[0]) for label, group in grouped(runs).items()}
    first_drawn = next((drawn for drawn in charts.values() if drawn), [])
    opening = [first_drawn.pop(0)] if first_drawn else []
    return Report(
        title=TITLE,
        headline=ratio_headline(runs),
        sections=(
            Section(tuple(opening), (first,)),
            Section(tables=tuple(others)),
            *extra,
            *(Section(tuple(drawn), title=f"Charts, {label}") for label, drawn in charts.items() if drawn),
        ),
        facts=(("Runs and machines", run_facts(runs)),),
    )


def run_facts(runs: Sequence[Results]) -> list[tuple[str, str]]:
    """Of each group: data and machine of its first run."""
    facts = []
    for label, (run, *others) in grouped(runs).items():
        data, machine = run.dataset, run.environment
        said = (
            f"{1 + len(others)} run(s); {data['users']:,} users, {data['items']:,} items, {data['scheme']} ids; "
            f"{machine['cpu']}, {machine.get('instruction_set') or 'int8 instructions not recorded'}, "
            f"{machine['threads']} threads, {machine['device']}"
        )
        facts.append((label, said))
    return facts
