"""The tables of a run: all columns for the report, five of them for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from podx.text.templates import Task
from podx_bench.engines import AS_PUBLISHED, ENCODE_ONCE, ENGINES
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.table import PERCENT, USERS, Column, Row, TextTable, figures_table, metric_column, metric_columns
from podx_bench.workload.baselines import SUMMARIES

Record = SpeedRecord | StreamRecord | AccuracyRecord
RATES = {"invalid": "invalid", "duplicate": "repeated"}
SHORT_METRICS = ("HR@10", "NDCG@10", "BLEU-4", "ROUGE-L")


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
SPEED = (
    *(Column(f"{name} ms", attrgetter(f"{name}_ms")) for name in ("p50", "p95", "p99")),
    MS_PER_USER,
    USERS_PER_S,
    *RATIOS,
    PEAK,
    Column("load s", attrgetter("load_s"), "{:.1f}".format),
    Column("calls", attrgetter("calls"), "{:.0f}".format),
    TOKENS,
)
STREAM = (
    USERS,
    Column("batch", attrgetter("batch_size"), "{:.0f}".format),
    Column("seconds", attrgetter("seconds")),
    MS_PER_USER,
    USERS_PER_S,
    *RATIOS,
    PEAK,
    Column("passes", lambda record: len(record.round_s), "{:.0f}".format),
    TOKENS,
)


def users_column(task: str) -> Column:
    """How many users, of explanations records, a row was measured on."""
    return Column("records", USERS.value) if task == Task.EXPLANATION else USERS


def agreement_column(task: str) -> Column:
    """How far a row agrees with its reference."""
    return Column("same text" if task == Task.EXPLANATION else "same top 10", _agreement)


def accuracy_columns(task: str) -> list[Column]:
    """All columns of accuracy on a task."""
    columns = [users_column(task), *metric_columns(task)]
    if task == Task.EXPLANATION:
        return [*columns, agreement_column(task)]
    rates = [metric_column(key, title, _share) for key, title in RATES.items()]
    return [*columns, *rates, agreement_column(task), Column("HR@10 lost", attrgetter("hr_10_loss"), _share)]


def engines_of(results: Results, task: str) -> list[str]:
    """Engines that were asked for and do a task."""
    asked: list[str] = results.options["engines"]
    return [engine for engine in asked if engine not in ENGINES or Task(task) in ENGINES[engine].tasks]


def _of(records: Iterable[Record], task: str, engine: str) -> list[Record]:
    return [record for record in records if (record.task, record.engine) == (task, engine)]


def speed_tables(results: Results) -> list[TextTable]:
    """One table per task, all columns."""
    return [
        figures_table(
            f"Speed, {task}",
            ("engine", "batch"),
            _speed_rows(results, task),
            SPEED,
            (_SPEED_NOTE, *_step_notes([r for r in results.speed if r.task == task])),
        )
        for task in results.options["tasks"]
    ]


def _speed_rows(results: Results, task: str) -> list[Row]:
    sizes, engines = results.options["batch_sizes"], engines_of(results, task)
    records = {size: [r for r in results.speed if r.batch_size == size] for size in sizes}
    return [((engine, str(size)), _of(records[size], task, engine)) for size in sizes for engine in engines]


def _step_notes(records: Sequence[SpeedRecord | StreamRecord]) -> list[str]:
    """What to say of the decoding steps, where they are known."""
    steps = sorted({record.decoding_steps for record in records if record.decoding_steps is not None})
    return [f"Decoding steps, end of sequence included: {', '.join(map(str, steps))}."] if steps else []


def stream_tables(results: Results) -> list[TextTable]:
    """One table per task that was streamed."""
    tables = []
    for task in results.options["tasks"]:
        records = [record for record in results.stream if record.task == task]
        rows = [((engine,), _of(records, task, engine)) for engine in engines_of(results, task)]
        notes = (_STREAM_NOTE, *_step_notes(records))
        if records:
            tables.append(figures_table(f"All users in one call, {task}", ("engine",), rows, STREAM, notes))
    return tables


def accuracy_tables(results: Results) -> list[TextTable]:
    """One table per task, the rows that learn nothing first."""
    return [
        figures_table(
            f"Accuracy, {task}",
            ("engine",),
            _accuracy_rows(results, task),
            accuracy_columns(task),
            _TEXT_NOTES if task == Task.EXPLANATION else _RANKING_NOTES,
        )
        for task in results.options["tasks"]
    ]


def _accuracy_rows(results: Results, task: str) -> list[Row]:
    """Rows that learn nothing, then the engines that take part."""
    scored = [name for name in engines_of(results, task) if name not in ENGINES or not ENGINES[name].speed_only]
    baselines = [name for name in SUMMARIES if _of(results.accuracy, task, name)]
    return [((name,), _of(results.accuracy, task, name)) for name in (*baselines, *scored)]


def short_tables(results: Results) -> list[TextTable]:
    """Five columns of what was measured, for the terminal and the top of the report: speed, then accuracy, by task."""
    tables = []
    for task in results.options["tasks"] if results.options["speed"] else ():
        measured = {record.engine for record in results.speed if record.task == task}
        ratio = AS_PUBLISHED_RATIO if AS_PUBLISHED in measured and ENCODE_ONCE not in measured else ENCODE_ONCE_RATIO
        columns = (MS_PER_USER, USERS_PER_S, Column("×", ratio.value, ratio.text))
        notes = [
            f"×: how many times as fast as {name}." for name in (ratio.title.removeprefix("× "),) if name in measured
        ]
        tables.append(figures_table(f"Speed, {task}", ("engine", "batch"), _speed_rows(results, task), columns, notes))
    for task in results.options["tasks"] if results.options["accuracy"] else ():
        metrics = [column for column in metric_columns(task) if column.title in SHORT_METRICS]
        shown = (users_column(task), *metrics, agreement_column(task))
        tables.append(figures_table(f"Accuracy, {task}", ("engine",), _accuracy_rows(results, task), shown))
    return tables


_STREAM_NOTE = (
    "The first users of the split, handed over in one call, from raw ids to raw ids. podx sorts them by length; the "
    "eager engines take them as the file has them and pad each batch to its longest, as a user would run them."
)
_SPEED_NOTE = (
    "p50, p95, p99: of one call of one batch, from raw ids to raw ids. ×: how many times as fast, the median of the "
    "ratios of paired rounds. Peak: memory of the engine's own process. Load: from process start to first answer. "
    "Tokens: mean / largest source length, prompt vectors not counted."
)
_RANKING_NOTES = (
    "Test split, leave-one-out. Invalid: answers that are no item of the catalog. Repeated: answers given twice in a "
    "list. Rows with fewer users are measured on the first of the same users. HR@10 lost: as a share of what the "
    "reference hits on the users that both answered; below zero, it hits more.",
)
_TEXT_NOTES = (
    "BLEU-4: sacrebleu, tokenize none, smoothing none. ROUGE: rouge-score F1 without stemming. References are cut to "
    "20 sub-words, as the training targets are.",
)
