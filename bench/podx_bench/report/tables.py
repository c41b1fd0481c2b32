"""The tables of a run as plain text cells: all columns for the report, five of them for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from podx.text.templates import Task
from podx_bench.engines import AS_PUBLISHED, ENCODE_ONCE, ENGINES
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.table import (
    MILLISECONDS,
    NONE,
    NOT_MEASURED,
    PERCENT,
    RANKING_COLUMNS,
    TEXT_COLUMNS,
    TextTable,
    short,
)
from podx_bench.workload.baselines import SUMMARIES

RATE_COLUMNS = (("invalid", "invalid"), ("duplicate", "repeated"))
SPEED_HEADER = (
    "engine", "batch", "p50 ms", "p95 ms", "p99 ms", "ms/user", "users/s", "× encode-once", "× as-published",
    "peak MB", "load s", "calls", "tokens",
)  # fmt: skip
SHORT_SPEED_HEADER = ("engine", "batch", "ms/user", "users/s", "×")
STREAM_HEADER = (
    "engine", "users", "batch", "seconds", "ms/user", "users/s", "× encode-once", "× as-published", "peak MB",
    "passes", "tokens",
)  # fmt: skip


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{PERCENT * value:.2f} %"


def engines_of(results: Results, task: str) -> list[str]:
    """Engines that were asked for and do a task."""
    asked: list[str] = results.options["engines"]
    return [engine for engine in asked if engine not in ENGINES or Task(task) in ENGINES[engine].tasks]


def _missing(columns: int, *first: str) -> tuple[str, ...]:
    """A row of something that was asked for and not measured."""
    return (*first, NOT_MEASURED, *[NONE] * (columns - len(first) - 1))


def speed_tables(results: Results) -> list[TextTable]:
    """One table per task, all columns."""
    tables = []
    for task in results.options["tasks"]:
        rows = [
            _missing(len(SPEED_HEADER), engine, str(size)) if record is None else _speed_row(record)
            for engine, size, record in _speed_cells(results, task)
        ]
        notes = (_SPEED_NOTE, *_step_notes([r for r in results.speed if r.task == task]))
        tables.append(TextTable(f"Speed, {task}", SPEED_HEADER, tuple(rows), notes))
    return tables


def _speed_cells(results: Results, task: str) -> list[tuple[str, int, SpeedRecord | None]]:
    """Engine, batch size and what was measured there; None: nothing."""
    records = {(r.engine, r.batch_size): r for r in results.speed if r.task == task}
    sizes, engines = results.options["batch_sizes"], engines_of(results, task)
    return [(engine, size, records.get((engine, size))) for size in sizes for engine in engines]


def _speed_row(record: SpeedRecord) -> tuple[str, ...]:
    return (
        record.engine,
        str(record.batch_size),
        *(short(value) for value in (record.p50_ms, record.p95_ms, record.p99_ms)),
        short(record.ms_per_user),
        short(record.users_per_s),
        _ratio(record.ratio_vs_encode_once),
        _ratio(record.ratio_vs_as_published),
        short(record.peak_rss_mb),
        f"{record.load_s:.1f}",
        str(record.calls),
        _tokens(record),
    )


def _tokens(record: SpeedRecord | StreamRecord) -> str:
    """Mean and largest number of source tokens."""
    if record.source_tokens_mean is None or record.source_tokens_max is None:
        return NONE
    return f"{record.source_tokens_mean:.1f} / {record.source_tokens_max}"


def _step_notes(records: Sequence[SpeedRecord | StreamRecord]) -> list[str]:
    """What to say of the decoding steps, where they are known."""
    steps = sorted({record.decoding_steps for record in records if record.decoding_steps is not None})
    return [f"Decoding steps, end of sequence included: {', '.join(map(str, steps))}."] if steps else []


def stream_tables(results: Results) -> list[TextTable]:
    """One table per task that was streamed."""
    tables = []
    for task in results.options["tasks"]:
        records = {record.engine: record for record in results.stream if record.task == task}
        if records:
            rows = [
                _stream_row(records[engine]) if engine in records else _missing(len(STREAM_HEADER), engine)
                for engine in engines_of(results, task)
            ]
            notes = (_STREAM_NOTE, *_step_notes(list(records.values())))
            tables.append(TextTable(f"All users in one call, {task}", STREAM_HEADER, tuple(rows), notes))
    return tables


def _stream_row(record: StreamRecord) -> tuple[str, ...]:
    return (
        record.engine,
        f"{record.users:,}",
        str(record.batch_size),
        short(record.seconds),
        short(MILLISECONDS / record.users_per_s),
        short(record.users_per_s),
        _ratio(record.ratio_vs_encode_once),
        _ratio(record.ratio_vs_as_published),
        short(record.peak_rss_mb),
        str(len(record.round_s)),
        _tokens(record),
    )


def accuracy_tables(results: Results) -> list[TextTable]:
    """One table per task, the rows that learn nothing first."""
    tables = []
    for task in results.options["tasks"]:
        text = task == Task.EXPLANATION
        columns = TEXT_COLUMNS if text else (*RANKING_COLUMNS, *RATE_COLUMNS)
        agreed = ("same text",) if text else ("same top 10", "HR@10 lost")
        header = ("engine", "records" if text else "users", *(title for _, title in columns), *agreed)
        rows = [
            _missing(len(header), engine) if record is None else _accuracy_row(record, text)
            for engine, record in _accuracy_cells(results, task)
        ]
        tables.append(TextTable(f"Accuracy, {task}", header, tuple(rows), _TEXT_NOTES if text else _RANKING_NOTES))
    return tables


def _accuracy_cells(results: Results, task: str) -> list[tuple[str, AccuracyRecord | None]]:
    """Rows that learn nothing and engines that take part, with what was measured; None: nothing."""
    records = {r.engine: r for r in results.accuracy if r.task == task}
    scored = [e for e in engines_of(results, task) if e not in ENGINES or not ENGINES[e].speed_only]
    return [(e, records.get(e)) for e in [*(name for name in SUMMARIES if name in records), *scored]]


def _accuracy_row(record: AccuracyRecord, text: bool) -> tuple[str, ...]:
    cells = [record.engine, f"{record.users:,}"]
    if text:
        return (*cells, *(f"{record.metrics[key]:.3f}" for key, _ in TEXT_COLUMNS), _agreement(record))
    cells += [_metric(record, key) for key, _ in RANKING_COLUMNS]
    cells += [_share(record.metrics[key]) for key, _ in RATE_COLUMNS]
    return (*cells, _agreement(record), _share(record.hr_10_loss))


def _metric(record: AccuracyRecord, key: str, digits: int = 4) -> str:
    return f"{record.metrics[key]:.{digits}f}" if key in record.metrics else NONE


def _agreement(record: AccuracyRecord) -> str:
    return NONE if record.overlap is None else f"{_share(record.overlap)} of {record.overlap_with}"


def short_tables(results: Results) -> list[TextTable]:
    """Five columns of what was measured, for the terminal and the top of the report: speed, then accuracy, by task."""
    speed = [_short_speed_table(results, task) for task in results.options["tasks"] if results.options["speed"]]
    accuracy = [
        _short_accuracy_table(results, task) for task in results.options["tasks"] if results.options["accuracy"]
    ]
    return [*speed, *accuracy]


def _short_speed_table(results: Results, task: str) -> TextTable:
    measured = {record.engine for record in results.speed if record.task == task}
    baseline = next((name for name in (ENCODE_ONCE, AS_PUBLISHED) if name in measured), None)
    rows = []
    for engine, size, record in _speed_cells(results, task):
        if record is None:
            rows.append(_missing(len(SHORT_SPEED_HEADER), engine, str(size)))
            continue
        times = record.ratio_vs_encode_once if baseline == ENCODE_ONCE else record.ratio_vs_as_published
        rows.append((engine, str(size), short(record.ms_per_user), short(record.users_per_s), _ratio(times)))
    notes = () if baseline is None else (f"×: how many times as fast as {baseline}, by paired rounds.",)
    return TextTable(f"Speed, {task}", SHORT_SPEED_HEADER, tuple(rows), notes)


def _short_accuracy_table(results: Results, task: str) -> TextTable:
    text = task == Task.EXPLANATION
    digits, keys = (3, ("bleu_4", "rouge_l")) if text else (4, ("hr_10", "ndcg_10"))
    titles = [title for key, title in (*RANKING_COLUMNS, *TEXT_COLUMNS) if key in keys]
    header = ("engine", "records" if text else "users", *titles, "same text" if text else "same top 10")
    rows = [
        _missing(len(header), engine)
        if record is None
        else (engine, f"{record.users:,}", *(_metric(record, key, digits) for key in keys), _agreement(record))
        for engine, record in _accuracy_cells(results, task)
    ]
    return TextTable(f"Accuracy, {task}", header, tuple(rows))


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
