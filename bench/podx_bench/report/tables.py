"""The tables of a run, or of several side by side: all columns for the report, five of them for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter

from podx.text.templates import Task
from podx_bench.engines import AS_PUBLISHED, ENCODE_ONCE, ENGINES
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.table import (
    NOT_MEASURED,
    PERCENT,
    PERCENTILES,
    TEXT_NOTE,
    USERS,
    Column,
    TextTable,
    figures_table,
    metric_column,
    metric_columns,
)
from podx_bench.workload.baselines import SUMMARIES

Record = SpeedRecord | StreamRecord | AccuracyRecord
Groups = Mapping[str, Sequence[Results]]
"""Runs by label and source length. Those of one group, as of several seeds, make one row: mean ± deviation."""
SPEED, STREAM, ACCURACY = "speed", "stream", "accuracy"
TITLES = {SPEED: "Speed", STREAM: "All users in one call", ACCURACY: "Accuracy"}
"""What a table is about: the field of the results that holds its records, and its title."""
SHORT_METRICS = ("HR@10", "NDCG@10", "BLEU-4", "ROUGE-L")
OVERVIEW_METRICS = ("HR@10", "NDCG@10")


def grouped(runs: Sequence[Results]) -> Groups:
    """Groups in the order in which they first come."""
    groups: dict[str, list[Results]] = {}
    for run in runs:
        length = run.options.get("source_length")
        groups.setdefault(run.label if length is None else f"{run.label}, source {length}", []).append(run)
    return groups


def tasks_of(groups: Groups) -> list[str]:
    """All tasks that were asked for."""
    return list(dict.fromkeys(task for runs in groups.values() for run in runs for task in run.options["tasks"]))


def _several(groups: Groups) -> bool:
    return sum(map(len, groups.values())) > 1


def _share(value: float) -> str:
    return f"{PERCENT * value:.2f} %"


def _tokens(record: SpeedRecord | StreamRecord) -> str | None:
    """Mean and largest number of source tokens."""
    if record.source_tokens_mean is None or record.source_tokens_max is None:
        return None
    return f"{record.source_tokens_mean:.1f} / {record.source_tokens_max}"


def _agreement(record: AccuracyRecord) -> str | None:
    return None if record.overlap is None else f"{_share(record.overlap)} of {record.overlap_with}"


MS_PER_USER = Column("ms/user", lambda record: 1e3 / record.users_per_s)
USERS_PER_S = Column("users/s", attrgetter("users_per_s"))
ENCODE_ONCE_RATIO = Column("× encode-once", attrgetter("ratio_vs_encode_once"), "{:.2f}×".format)
AS_PUBLISHED_RATIO = Column("× as-published", attrgetter("ratio_vs_as_published"), "{:.2f}×".format)
RATIOS = (ENCODE_ONCE_RATIO, AS_PUBLISHED_RATIO)
PEAK, TOKENS = Column("peak MB", attrgetter("peak_rss_mb")), Column("tokens", _tokens)
SPEED_COLUMNS = [
    *PERCENTILES,
    MS_PER_USER,
    USERS_PER_S,
    *RATIOS,
    PEAK,
    Column("load s", attrgetter("load_s"), "{:.1f}".format),
    Column("calls", attrgetter("calls"), "{:.0f}".format),
    TOKENS,
]
STREAM_COLUMNS = [
    USERS,
    Column("batch", attrgetter("batch_size"), "{:.0f}".format),
    Column("seconds", attrgetter("seconds")),
    MS_PER_USER,
    USERS_PER_S,
    *RATIOS,
    PEAK,
    Column("passes", lambda record: len(record.round_s), "{:.0f}".format),
    TOKENS,
]


def accuracy_columns(task: str, only: Sequence[str] | None = None) -> list[Column]:
    """Users, of explanations records; metrics, or ``only`` those of some titles; how far a row agrees with others."""
    text = task == Task.EXPLANATION
    rates = {} if text or only is not None else {"invalid": "invalid", "duplicate": "repeated"}
    return [
        Column("records", USERS.value) if text else USERS,
        *(column for column in metric_columns(task) if only is None or column.title in only),
        *(metric_column(key, title, _share) for key, title in rates.items()),
        Column("same text" if text else "same top 10", _agreement),
        *([Column("HR@10 lost", attrgetter("hr_10_loss"), _share)] if rates else []),
    ]


def engines_of(run: Results, task: str, field: str) -> list[str]:
    """Rows of a run's table: of accuracy first those that learn nothing, then engines asked for that do the task."""
    asked = [name for name in run.options["engines"] if name not in ENGINES or Task(task) in ENGINES[name].tasks]
    if field != ACCURACY:
        return asked
    scored = {record.engine for record in run.accuracy if record.task == task}
    engines = [name for name in asked if name not in ENGINES or not ENGINES[name].speed_only]
    return [*(name for name in SUMMARIES if name in scored), *engines]


def engine_rows(
    groups: Groups, task: str, field: str, batch_size: int | None = None
) -> Iterator[tuple[str, str, list[Record]]]:
    """A row for each engine and each group that was asked for it: both names and the records; none: not measured.

    Of several runs, those without any record have no rows.
    """
    records, engines = {}, {}
    for label, runs in groups.items():
        of_task = [record for run in runs for record in getattr(run, field) if record.task == task]
        of_size = [record for record in of_task if batch_size is None or record.batch_size == batch_size]
        if of_size or (not _several(groups) and runs[0].options.get(field)):
            records[label] = of_size
            engines[label] = dict.fromkeys(name for run in runs for name in engines_of(run, task, field))
    for engine in dict.fromkeys(name for names in engines.values() for name in names):
        for label in (label for label, names in engines.items() if engine in names):
            yield engine, label, [record for record in records[label] if record.engine == engine]


def records_table(
    groups: Groups, task: str, field: str, columns: Sequence[Column], notes: Iterable[str] = ()
) -> TextTable:
    """A row for each batch size that is timed, engine and group; of several runs, their names and number, too."""
    several = _several(groups)
    sizes: list[int | None] = [None]
    if field == SPEED:
        sizes = sorted({size for runs in groups.values() for run in runs for size in run.options["batch_sizes"]})
    first = ["engine", *(["run", "runs"] if several else []), *(["batch"] if field == SPEED else [])]
    rows = []
    for size in sizes:
        for engine, label, records in engine_rows(groups, task, field, size):
            cells = {"engine": engine, "run": label, "runs": str(len(records)), "batch": str(size)}
            rows.append((tuple(cells[name] for name in first), records))
    notes = (*notes, *([_SEVERAL_NOTE] if several else []))
    return figures_table(f"{TITLES[field]}, {task}", first, rows, columns, notes)


def all_tables(groups: Groups, field: str) -> list[TextTable]:
    """A table for each task that has rows, all columns."""
    tables = []
    for task in tasks_of(groups):
        if field == ACCURACY:
            columns, notes = accuracy_columns(task), [TEXT_NOTE if task == Task.EXPLANATION else _RANKING_NOTE]
        else:
            columns, notes = (SPEED_COLUMNS, [_SPEED_NOTE]) if field == SPEED else (STREAM_COLUMNS, [_STREAM_NOTE])
            records = chain.from_iterable(getattr(run, field) for runs in groups.values() for run in runs)
            notes += _step_notes(record for record in records if record.task == task)
        tables.append(records_table(groups, task, field, columns, notes))
    return [table for table in tables if table.rows]


def _step_notes(records: Iterable[SpeedRecord | StreamRecord]) -> list[str]:
    """What to say of the decoding steps, where they are known."""
    steps = sorted({record.decoding_steps for record in records if record.decoding_steps is not None})
    said = ", ".join(map(str, steps))
    return [f"Decoding steps, end of sequence included where it is scored: {said}."] if steps else []


def short_tables(results: Results) -> list[TextTable]:
    """Five columns of what was measured, for the terminal and the top of the report: speed, then accuracy, by task."""
    tables, groups = [], {results.label: [results]}
    for task in results.options["tasks"] if results.options[SPEED] else ():
        measured = {record.engine for record in results.speed if record.task == task}
        ratio = AS_PUBLISHED_RATIO if AS_PUBLISHED in measured and ENCODE_ONCE not in measured else ENCODE_ONCE_RATIO
        columns = (MS_PER_USER, USERS_PER_S, Column("×", ratio.value, ratio.text))
        baseline = ratio.title.removeprefix("× ")
        notes = [f"×: how many times as fast as {baseline}."] if baseline in measured else []
        tables.append(records_table(groups, task, SPEED, columns, notes))
    for task in results.options["tasks"] if results.options[ACCURACY] else ():
        tables.append(records_table(groups, task, ACCURACY, accuracy_columns(task, SHORT_METRICS)))
    return tables


def overview_tables(groups: Groups) -> list[TextTable]:
    """HR@10 / NDCG@10 of every engine, a table for each ranking task and a column for each group that measured it."""
    tables = []
    for task in (task for task in tasks_of(groups) if task != Task.EXPLANATION):
        columns = [column for column in accuracy_columns(task) if column.title in OVERVIEW_METRICS]
        cells: dict[str, dict[str, str]] = {}
        for engine, label, records in engine_rows(groups, task, ACCURACY):
            figures = " / ".join(column.cell(records) for column in columns)
            cells.setdefault(engine, {})[label] = figures if records else NOT_MEASURED
        labels = list(dict.fromkeys(label for row in cells.values() for label in row))
        rows = tuple((engine, *(row.get(label, NOT_MEASURED) for label in labels)) for engine, row in cells.items())
        title = f"Overview, {task}: {' / '.join(OVERVIEW_METRICS)}"
        tables.append(TextTable(title, ("engine", *labels), rows, ("Users and runs: below.",)))
    return [table for table in tables if table.rows]


_SEVERAL_NOTE = "Several runs: mean ± standard deviation. Only the ratios of times compare between runs."
_STREAM_NOTE = (
    "The first users of the split, handed over in one call, from raw ids to raw ids. podx sorts them by length; the "
    "eager engines take them as the file has them and pad each batch to its longest, as a user would run them."
)
_SPEED_NOTE = (
    "p50, p95, p99: of one call of one batch, from raw ids to raw ids. ×: how many times as fast, the median of the "
    "ratios of paired rounds. Peak: memory of the engine's own process. Load: from process start to first answer. "
    "Tokens: mean / largest source length, prompt vectors not counted."
)
_RANKING_NOTE = (
    "Test split, leave-one-out. Invalid: answers that are no item of the catalog. Repeated: answers given twice in a "
    "list. Rows with fewer users are measured on the first of the same users. HR@10 lost: as a share of what the "
    "reference hits on the users that both answered; below zero, it hits more."
)
