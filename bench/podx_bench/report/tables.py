"""The tables of a report as plain text cells, made from results; how they are drawn is up to the renderer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from podx.text.templates import Task
from podx_bench.engines import ENGINES
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.table import MILLISECONDS, NONE, NOT_MEASURED, PERCENT, TextTable, short
from podx_bench.workload.baselines import SUMMARIES

RANKING_COLUMNS = (
    ("hr_1", "HR@1"),
    ("hr_5", "HR@5"),
    ("ndcg_5", "NDCG@5"),
    ("hr_10", "HR@10"),
    ("ndcg_10", "NDCG@10"),
)
RATE_COLUMNS = (("invalid", "invalid"), ("duplicate", "repeated"))
TEXT_COLUMNS = (("bleu_4", "BLEU-4"), ("rouge_1", "ROUGE-1"), ("rouge_2", "ROUGE-2"), ("rouge_l", "ROUGE-L"))


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def _share(value: float) -> str:
    return f"{PERCENT * value:.2f} %"


def grid(results: Results) -> Iterator[tuple[str, str]]:
    """(task, engine) that were asked for and go together."""
    for task in results.options["tasks"]:
        for engine in results.options["engines"]:
            if engine not in ENGINES or Task(task) in ENGINES[engine].tasks:
                yield task, engine


SPEED_HEADER = (
    "engine", "batch", "p50 ms", "p95 ms", "p99 ms", "ms/user", "users/s", "× encode-once", "× as-published",
    "peak MB", "load s", "calls", "tokens",
)  # fmt: skip


def _speed_row(engine: str, batch_size: int, record: SpeedRecord | None) -> tuple[str, ...]:
    if record is None:
        return (engine, str(batch_size), NOT_MEASURED, *[NONE] * (len(SPEED_HEADER) - 3))
    return (
        engine,
        str(batch_size),
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


def speed_tables(results: Results) -> list[TextTable]:
    """One table per task."""
    found = {(r.task, r.engine, r.batch_size): r for r in results.speed}
    tables = []
    for task in results.options["tasks"]:
        rows = tuple(
            _speed_row(engine, size, found.get((task, engine, size)))
            for size in results.options["batch_sizes"]
            for own, engine in grid(results)
            if own == task
        )
        notes = [_SPEED_NOTE, *_step_notes([r for r in results.speed if r.task == task])]
        tables.append(TextTable(f"Speed, {task}", SPEED_HEADER, rows, tuple(notes)))
    return tables


def _step_notes(records: Sequence[SpeedRecord | StreamRecord]) -> list[str]:
    """What to say of the decoding steps, where they are known."""
    steps = sorted({record.decoding_steps for record in records if record.decoding_steps is not None})
    return [f"Decoding steps, end of sequence included: {', '.join(map(str, steps))}."] if steps else []


STREAM_HEADER = (
    "engine", "users", "batch", "seconds", "ms/user", "users/s", "× encode-once", "× as-published", "peak MB",
    "passes", "tokens",
)  # fmt: skip


def _stream_row(engine: str, record: StreamRecord | None) -> tuple[str, ...]:
    if record is None:
        return (engine, NOT_MEASURED, *[NONE] * (len(STREAM_HEADER) - 2))
    return (
        engine,
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


def stream_tables(results: Results) -> list[TextTable]:
    """One table per task that was streamed."""
    tables = []
    for task in results.options["tasks"]:
        found = {record.engine: record for record in results.stream if record.task == task}
        if found:
            rows = tuple(_stream_row(engine, found.get(engine)) for own, engine in grid(results) if own == task)
            notes = (_STREAM_NOTE, *_step_notes(list(found.values())))
            tables.append(TextTable(f"All users in one call, {task}", STREAM_HEADER, rows, notes))
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


def _metric(record: AccuracyRecord, key: str) -> str:
    return f"{record.metrics[key]:.4f}" if key in record.metrics else NONE


def _accuracy_row(engine: str, record: AccuracyRecord | None, task: str) -> tuple[str, ...]:
    columns = TEXT_COLUMNS if task == Task.EXPLANATION else (*RANKING_COLUMNS, *RATE_COLUMNS)
    if record is None:
        return (engine, NOT_MEASURED, *[NONE] * (len(columns) + (1 if task == Task.EXPLANATION else 2)))
    agreed = NONE if record.overlap is None else f"{_share(record.overlap)} of {record.overlap_with}"
    if task == Task.EXPLANATION:
        return (engine, f"{record.users:,}", *(f"{record.metrics[key]:.3f}" for key, _ in columns), agreed)
    rates = [_share(record.metrics[key]) for key, _ in RATE_COLUMNS]
    lost = NONE if record.hr_10_loss is None else _share(record.hr_10_loss)
    metrics = [*(_metric(record, key) for key, _ in RANKING_COLUMNS), *rates]
    return (engine, f"{record.users:,}", *metrics, agreed, lost)


def accuracy_tables(results: Results) -> list[TextTable]:
    """One table per task, the rows that learn nothing first."""
    tables = []
    for task in results.options["tasks"]:
        found = {r.engine: r for r in results.accuracy if r.task == task}
        scored = [e for own, e in grid(results) if own == task and (e not in ENGINES or not ENGINES[e].speed_only)]
        engines = [name for name in SUMMARIES if name in found] + scored
        rows = tuple(_accuracy_row(engine, found.get(engine), task) for engine in engines)
        text = task == Task.EXPLANATION
        titles = [title for _, title in (TEXT_COLUMNS if text else (*RANKING_COLUMNS, *RATE_COLUMNS))]
        agreed = ("same text",) if text else ("same top 10", "HR@10 lost")
        header = ("engine", "records" if text else "users", *titles, *agreed)
        tables.append(TextTable(f"Accuracy, {task}", header, rows, _TEXT_NOTES if text else _RANKING_NOTES))
    return tables


_RANKING_NOTES = (
    "Test split, leave-one-out. Invalid: answers that are no item of the catalogue. Repeated: answers given twice in a "
    "list. Rows with fewer users are measured on the first of the same users. HR@10 lost: as a share of what the "
    "reference hits on the users that both answered; below zero, it hits more.",
)
_TEXT_NOTES = (
    "BLEU-4: sacrebleu, tokenize none, smoothing none. ROUGE: rouge-score F1 without stemming. References are cut to "
    "20 sub-words, as the training targets are.",
)
