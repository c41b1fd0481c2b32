"""The tables beside the accuracy: leaks, ways of decoding, templates at inference, budgets of training."""

from __future__ import annotations

from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy_report.records import CONSTRAINED, TEXT, Study
from podx_bench.accuracy_report.rows import (
    MODEL,
    PODX,
    Row,
    ordered_datasets,
    rows_of,
    scheme_name,
    side_by_side,
    spread,
)
from podx_bench.accuracy_report.tables import REPORTED, digits, figures, metric_columns, time_note, time_of
from podx_bench.pages.table import NONE, PERCENT, TextTable
from podx_bench.published import DROPPED, KEPT, TABLE_6, Published

HITS = (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10"))
RATES = (("invalid", "invalid %"), ("duplicate", "repeated %"), ("seen", "seen %"), ("outside", "no candidate %"))
SECONDS_PER_MINUTE = 60.0


def facts_tables(study: Study) -> list[TextTable]:
    """Every one of these tables that the study can fill."""
    tables = [
        leak_table(study),
        *(decoding_table(study, task) for task in (Task.SEQUENTIAL, Task.TOPN)),
        *(template_table(study, task) for task in ALL_TASKS),
        budget_table(study),
        peer_table(study),
    ]
    return [table for table in tables if table is not None and table.rows]


def leak_table(study: Study) -> TextTable:
    """Held-out pairs that the data gives away, a row per dataset."""
    rows = []
    for dataset in ordered_datasets(study):
        leaks, stats = dataset.leaks, dataset.stats
        pairs = leaks["pairs"]
        rows.append(
            (
                dataset.name,
                dataset.scheme,
                f"{pairs:,}",
                *(_part(leaks[name], pairs) for name in ("next_number", "within_ten")),
                f"{stats['near_users_hr10']:.4f} / {stats['near_users_shuffled_hr10']:.4f}",
                f"{sum(stats['explanations'].values()):,}",
                *(_part(leaks[name], pairs) for name in ("explained_test", "explained_validation")),
            )
        )
    header = (
        "data", "ids", "test pairs", "next number", "next ten", "near users", "explanations", "explained: test",
        "validation",
    )  # fmt: skip
    return TextTable("Held-out pairs that leak", header, tuple(rows), (_LEAK_NOTE,))


def _part(count: int, whole: int) -> str:
    return f"{count:,} ({PERCENT * count / whole:.2f} %)"


_LEAK_NOTE = (
    "Next number, next ten: test items that are max(history)+1, or among it and the nine after it. Near users: HR@10 "
    "of what users with near numbers took in training / the same with shuffled user numbers. Explained: held-out pairs "
    "whose explanation is among the training records."
)


def decoding_table(study: Study, task: Task) -> TextTable:
    """Constrained and free search side by side, on the same users."""
    rates = [(key, title) for key, title in RATES if task is Task.TOPN or key != "outside"]
    rows = [
        (row.name, scheme_name(row.dataset), how, row.users, *_hits(row), *_rates(row, rates), time_of(row))
        for pair in side_by_side(study, task)
        for how, row in zip(("catalogue", "free"), pair, strict=True)
    ]
    titles = [title for _, title in (*HITS, *rates)]
    header = ("method", "ids", "search", "users", *titles, "ms/user")
    return TextTable(f"Constrained and unconstrained decoding, {task}", header, tuple(rows), (_DECODING_NOTE,))


def _hits(row: Row) -> list[str]:
    return [spread(row.values(key), 4) for key, _ in HITS]


def _rates(row: Row, rates: list[tuple[str, str]]) -> list[str]:
    return [spread([PERCENT * value for value in row.values(key)], 2) for key, _ in rates]


_DECODING_NOTE = (
    "Free: the paper's protocol, the whole vocabulary and nothing excluded. Shares of all answers: invalid names no "
    "item, repeated was given before in the same list, seen is in the user's history. No answer is replaced."
)


def template_table(study: Study, task: Task) -> TextTable | None:
    """The paper's Table 6: the discrete template kept at inference or dropped; None: no model keeps one."""
    own = [row for row in rows_of(study, task, TEXT if task is Task.EXPLANATION else CONSTRAINED) if row.kind == MODEL]
    if not any(_kept(row, task) for row in own):
        return None
    rows = [_reported(row, task) for row in TABLE_6 if row.task is task]
    for row in own:
        said = KEPT if _kept(row, task) else DROPPED
        rows.append((row.name, scheme_name(row.dataset), said, row.users, *figures(row, task), time_of(row)))
    header = ("method", "ids", "template", "users", *(title for _, title in metric_columns(task)), "ms/user")
    templates = {record.templates[task] for row in own for record in row.records if task in record.templates}
    notes = (
        "reported: on Sports; time of the whole test set on a V100S, not per user.",
        f"ms/user: {time_note(study, task)}.",
        *(f"Kept: {template}" for template in sorted(templates)),
    )
    return TextTable(f"Discrete template at inference, {task} (the paper's Table 6)", header, tuple(rows), notes)


def _kept(row: Row, task: Task) -> bool:
    return any(task in record.templates for record in row.records)


def _reported(row: Published, task: Task) -> tuple[str, ...]:
    shown = [f"{row.metrics[key]:.{digits(task)}f}" if key in row.metrics else NONE for key, _ in metric_columns(task)]
    return (f"POD, {row.dataset}, {REPORTED}", "paper", row.method, NONE, *shown, row.time or NONE)


def budget_table(study: Study) -> TextTable:
    """What each model was trained with and for how long, a row per bundle."""
    schemes = {record.digest: record.scheme for record in study.datasets}
    rows = []
    for record in study.models:
        facts, training = record.facts, record.training
        options, environment = training.get("options") or {}, training.get("environment") or {}
        rows.append(
            (
                PODX + record.label,
                schemes.get(record.dataset, record.scheme),
                _said(training.get("seed")),
                _said(facts.get("parameters")),
                _said(facts.get("precision")),
                _said(facts.get("bundle_mb")),
                _said(facts.get("prompts")),
                _said(training.get("updates")),
                _said(options.get("batch_size")),
                _said(training.get("best_epoch")),
                _minutes(training.get("train_seconds")),
                _said(environment.get("device")),
            )
        )
    header = (
        "model", "ids", "seed", "parameters", "precision", "MB", "prompts", "updates", "batch", "best epoch",
        "minutes", "trained on",
    )  # fmt: skip
    return TextTable("Budget of training", header, tuple(rows), ("Minutes: of updates alone, validation not counted.",))


def peer_table(study: Study) -> TextTable:
    """What each peer's file says of its training."""
    rows = []
    for record in study.peers:
        training = record.training
        minutes = training.get("minutes")
        said = f"{minutes:.1f}" if isinstance(minutes, int | float) else NONE
        rows.append((record.label, record.scheme, _said(training.get("seed")), _said(training.get("epochs")), said))
    return TextTable("Peers, as their files say", ("peer", "ids", "seed", "epochs", "minutes"), tuple(rows))


def _said(value: object) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else str(value)


def _minutes(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds / SECONDS_PER_MINUTE:.1f}"
