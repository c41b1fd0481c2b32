"""The tables of a report as plain text cells, made from results; how they are drawn is up to the renderer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from podx.tasks import Task
from podx_bench.baselines import SUMMARIES
from podx_bench.engines import ENGINES
from podx_bench.results import AccuracyRecord, Results, SpeedRecord

NOT_MEASURED = "not measured"
NONE = "–"
PERCENT = 100.0

RANKING_COLUMNS = (
    ("hr_1", "HR@1"),
    ("hr_5", "HR@5"),
    ("ndcg_5", "NDCG@5"),
    ("hr_10", "HR@10"),
    ("ndcg_10", "NDCG@10"),
)
RATE_COLUMNS = (("invalid", "invalid"), ("duplicate", "repeated"))
TEXT_COLUMNS = (("bleu_4", "BLEU-4"), ("rouge_1", "ROUGE-1"), ("rouge_2", "ROUGE-2"), ("rouge_l", "ROUGE-L"))


@dataclass(frozen=True)
class TextTable:
    """A table: the first column is text, the others are figures. ``notes``: what a reader must know, said below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def short(value: float) -> str:
    """Three significant digits for small figures, none behind the point for large ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
    "peak MB", "load s", "calls",
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
    )


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
        tables.append(TextTable(f"Speed, {task}", SPEED_HEADER, rows, _SPEED_NOTES))
    return tables


_SPEED_NOTES = (
    "p50, p95, p99: of one call of one batch, from raw ids to raw ids. ×: how many times as fast, the median of the "
    "ratios of paired rounds. Peak: memory of the engine's own process. Load: from process start to first answer.",
)


def _metric(record: AccuracyRecord, key: str) -> str:
    return f"{record.metrics[key]:.4f}" if key in record.metrics else NONE


def _accuracy_row(engine: str, record: AccuracyRecord | None, task: str) -> tuple[str, ...]:
    columns = TEXT_COLUMNS if task == Task.EXPLANATION else (*RANKING_COLUMNS, *RATE_COLUMNS)
    if record is None:
        return (engine, NOT_MEASURED, *[NONE] * (len(columns) + 1))
    agreed = NONE if record.overlap is None else f"{_share(record.overlap)} of {record.overlap_with}"
    if task == Task.EXPLANATION:
        metrics = [f"{record.metrics[key]:.3f}" for key, _ in columns]
    else:
        rates = [_share(record.metrics[key]) for key, _ in RATE_COLUMNS]
        metrics = [*(_metric(record, key) for key, _ in RANKING_COLUMNS), *rates]
    return (engine, f"{record.users:,}", *metrics, agreed)


def accuracy_tables(results: Results) -> list[TextTable]:
    """One table per task, the rows that learn nothing first."""
    tables = []
    for task in results.options["tasks"]:
        found = {r.engine: r for r in results.accuracy if r.task == task}
        engines = [name for name in SUMMARIES if name in found] + [e for own, e in grid(results) if own == task]
        rows = tuple(_accuracy_row(engine, found.get(engine), task) for engine in engines)
        text = task == Task.EXPLANATION
        titles = [title for _, title in (TEXT_COLUMNS if text else (*RANKING_COLUMNS, *RATE_COLUMNS))]
        header = ("engine", "records" if text else "users", *titles, "same text" if text else "same top 10")
        tables.append(TextTable(f"Accuracy, {task}", header, rows, _TEXT_NOTES if text else _RANKING_NOTES))
    return tables


_RANKING_NOTES = (
    "Test split, leave-one-out. Invalid: answers that are no item of the catalogue. Repeated: answers given twice in a "
    "list. Rows with fewer users are measured on the first of the same users.",
)
_TEXT_NOTES = (
    "BLEU-4: sacrebleu, tokenize none, smoothing none. ROUGE: rouge-score F1 without stemming. References are cut to "
    "20 sub-words, as the training targets are.",
)


def environment_rows(results: Results) -> list[tuple[str, str]]:
    """What a reader must know of machine, model and data."""
    environment, model, dataset = results.environment, results.model, results.dataset
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return [
        ("processor", f"{environment['cpu']}, {environment['usable_cores']} usable cores"),
        ("memory", f"{environment['memory_gb']} GB"),
        ("graphics", environment["gpu"] or "none"),
        ("device", f"{environment['device']}, {environment['threads']} threads for every engine"),
        ("system", f"{environment['os']}, Python {environment['python']}"),
        ("versions", f"podx {environment['podx']} ({environment['podx_commit'] or 'no commit known'}), {packages}"),
        ("model", _model_line(results)),
        ("parity at export", ", ".join(f"{key} {value}" for key, value in model["parity"].items()) or "unknown"),
        (
            "data",
            f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items, {dataset['interactions']:,} "
            f"interactions, {dataset['scheme']} ids",
        ),
        ("search", f"{results.options['beams']} beams, {results.options['k']} answers"),
    ]


def _model_line(results: Results) -> str:
    model = results.model
    size = f"{model['parameters']:,} weights, " if model["parameters"] else ""
    epoch = model["best_epoch"]
    trained = "untrained" if epoch in (None, 0) else f"best epoch {epoch}"
    return f"{size}{model['precision']}, {model['prompts']} prompt vectors a task, {trained}"
