"""The tables of an accuracy report, made from ``accuracy.json`` and published figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, methodcaller
from typing import Any

from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy import published
from podx_bench.accuracy.records import AccuracyResults, DatasetRecord
from podx_bench.accuracy.rows import (
    LEARNS_NOTHING,
    MODEL,
    PODX,
    Method,
    leaks,
    methods,
    ordered_datasets,
    scheme_name,
    side_by_side,
)
from podx_bench.harness.records import CONSTRAINED, TEXT
from podx_bench.pages.table import (
    NONE,
    PERCENT,
    TEXT_NOTE,
    USERS,
    Column,
    Row,
    TextTable,
    figures_table,
    metric_column,
    metric_columns,
)
from podx_bench.workload.baselines import NEAR_USERS, NEXT_NUMBER

REPORTED = "reported"
MS_PER_USER = Column("ms/user", attrgetter("ms_per_user"), "{:.1f}".format)
RATES = {"invalid": "invalid %", "duplicate": "repeated %", "seen": "seen %", "outside": "no candidate %"}
BUDGET = {
    "seed": "seed", "parameters": "parameters", "precision": "precision", "MB": "bundle_mb", "prompts": "prompts",
    "updates": "updates", "batch": "batch_size", "best epoch": "best_epoch", "minutes": "minutes",
    "trained on": "device",
}  # fmt: skip
"""Columns of the table of budgets, and what they show of a model or a peer."""
SECONDS_PER_MINUTE = 60.0
_NOTE = (
    "reported: figures of the paper, not measured here. Several seeds: mean ± sample standard deviation. "
    "ms/user: from raw ids to raw ids; {}."
)
_LISTS_NOTE = (
    "Rows of podx: search inside the catalog; sequential: seen items left out; top-N: candidates alone. The paper's "
    "rows: search over the whole vocabulary, nothing left out."
)
_TEXT_NOTE = f"{TEXT_NOTE} The paper's ROUGE is over sets of n-grams."
_LEAK_NOTE = (
    "Next number, next ten: test items that are max(history)+1, or among it and the nine after it. Near users: HR@10 "
    "of what users with near numbers took in training / the same with shuffled user numbers. Explained: held-out pairs "
    "whose explanation is among the training records."
)
_DECODING_NOTE = (
    "Free: the paper's protocol, the whole vocabulary and nothing excluded. Shares of all answers: invalid names no "
    "item, repeated was given before in the same list, seen is in the user's history. No answer is replaced."
)


def all_tables(results: AccuracyResults) -> list[TextTable]:
    """Every table that the results can fill, in the order of the report."""
    tables = [
        *(accuracy_table(results, task) for task in ALL_TASKS),
        _leak_free_table(results),
        leak_table(results),
        *(decoding_table(results, task) for task in (Task.SEQUENTIAL, Task.TOPN)),
        *(template_table(results, task) for task in ALL_TASKS),
        _budget_table(results),
    ]
    return [table for table in tables if table is not None and table.rows]


def _row(method: Method, what: str) -> Row:
    return (method.name, scheme_name(method.dataset), what), method.seeds


def _table(title: str, what: str, columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str]) -> TextTable:
    """A table of methods. ``what``: heading of the third column."""
    return figures_table(title, ("method", "ids", what), rows, (USERS, *columns, MS_PER_USER), notes)


def _measured(results: AccuracyResults, task: Task) -> list[Method]:
    return methods(results, task, TEXT if task is Task.EXPLANATION else CONSTRAINED)


def dataset_name(results: AccuracyResults) -> str | None:
    """The paper's dataset that all of a report's are copies of; None: it is another, or there are several."""
    names = {published.COUNTS.get((record.stats["users"], record.stats["items"])) for record in results.datasets}
    return names.pop() if len(names) == 1 else None


def accuracy_table(results: AccuracyResults, task: Task) -> TextTable | None:
    """Table 2, 3 or 4 of the paper with our rows below its rows; None: nothing was measured."""
    measured = _measured(results, task)
    if not measured:
        return None
    name, rows = dataset_name(results), list[Row]()
    for reported in published.published_rows(name, task):
        scheme = "paper (leaks)" if reported.method in published.NUMBERED and task is not Task.EXPLANATION else "paper"
        if reported.method == published.POD and task is Task.SEQUENTIAL:
            logged = {"hr_1": published.LOGGED_HR_1[reported.dataset]}
            reported = reported._replace(metrics={**reported.metrics, **logged})
        rows.append(((reported.method, scheme, REPORTED), [reported]))
    rows += [_row(one, NONE if one.kind == LEARNS_NOTHING else str(len(one.seeds))) for one in measured]
    notes = [_NOTE.format(_time_note(results, task)), _TEXT_NOTE if task is Task.EXPLANATION else _LISTS_NOTE]
    if task is Task.SEQUENTIAL:
        notes += [_warning(record) for record in ordered_datasets(results) if leaks(record)]
    title = f"{task} (the paper's Table {published.NUMBER[task]}{f', {name}' if name else ''})"
    return _table(title, "seeds", metric_columns(task), rows, notes)


def _time_note(results: AccuracyResults, task: Task) -> str:
    """How the times of a table were taken."""
    timing = results.timing(task)
    if timing is None:
        return "of the accuracy runs, one model after another, so small differences mean nothing"
    return (
        f"all models in turns, the first seed of each, batch size {timing.batch_size}, {timing.users} users, "
        f"{timing.rounds} rounds"
    )


def _warning(dataset: DatasetRecord) -> str:
    """What the numbers of a dataset give away, to be read beside every row with the same ids."""
    told = [(name, dataset.find(name, Task.SEQUENTIAL)) for name in (NEXT_NUMBER, NEAR_USERS)]
    said = [
        f"{name} reaches HR@10 {row.metrics['hr_10']:.4f}, NDCG@10 {row.metrics['ndcg_10']:.4f}"
        for name, row in told
        if row is not None
    ]
    return (
        f"Warning: {dataset.scheme} ids give the held-out item away. Without any learning, {'; '.join(said)}. Judge "
        f"every row with these ids, reported ones included, by what it adds to that."
    )


def _leak_free_table(results: AccuracyResults) -> TextTable | None:
    """What other papers report without the leak; None: the data is not Beauty."""
    if dataset_name(results) != published.BEAUTY:
        return None
    rows: list[Row] = [((row.method,), [row]) for row in published.LEAK_FREE]
    note = "Reported, not measured here: sequential recommendation on Beauty, figures as later papers quote them."
    columns = metric_columns(Task.SEQUENTIAL)[1:]
    return figures_table("Leak-free figures of other papers, Beauty", ("method",), rows, columns, (note,))


def leak_table(results: AccuracyResults) -> TextTable:
    """Held-out pairs that the data gives away, a row per dataset."""
    rows = []
    for dataset in ordered_datasets(results):
        stats, pairs = dataset.stats, dataset.leaks["pairs"]
        shares = {name: f"{count:,} ({PERCENT * count / pairs:.2f} %)" for name, count in dataset.leaks.items()}
        near = f"{stats['near_users_hr10']:.4f} / {stats['near_users_shuffled_hr10']:.4f}"
        explained = f"{sum(stats['explanations'].values()):,}"
        numbered = [shares[name] for name in ("next_number", "within_ten")]
        said = [shares[name] for name in ("explained_test", "explained_validation")]
        rows.append((dataset.name, dataset.scheme, f"{pairs:,}", *numbered, near, explained, *said))
    header = (
        "data", "ids", "test pairs", "next number", "next ten", "near users", "explanations", "explained: test",
        "validation",
    )  # fmt: skip
    return TextTable("Held-out pairs that leak", header, tuple(rows), (_LEAK_NOTE,))


def decoding_table(results: AccuracyResults, task: Task) -> TextTable:
    """Constrained and free search side by side, on the same users."""
    hits = [column for column in metric_columns(task) if column.title.endswith("@10")]
    rates = [metric_column(key, title, _percent) for key, title in RATES.items()]
    pairs = side_by_side(results, task)
    rows = [_row(one, how) for pair in pairs for how, one in zip(("catalog", "free"), pair, strict=True)]
    columns = (*hits, *(rates if task is Task.TOPN else rates[:-1]))
    return _table(f"Constrained and unconstrained decoding, {task}", "search", columns, rows, (_DECODING_NOTE,))


def _percent(share: float) -> str:
    return f"{PERCENT * share:.2f}"


def template_table(results: AccuracyResults, task: Task) -> TextTable | None:
    """The paper's Table 6: the discrete template kept at inference or dropped; None: no model keeps one."""
    measured = [method for method in _measured(results, task) if method.kind == MODEL]
    templates = sorted({method.template(task) for method in measured} - {""})
    if not templates:
        return None
    reported = [row for row in published.TABLE_6 if row.task is task]
    rows: list[Row] = [((f"POD, {row.dataset}, {REPORTED}", "paper", row.method), [row]) for row in reported]
    rows += [_row(one, published.KEPT if one.template(task) else published.DROPPED) for one in measured]
    notes = (
        "reported: on Sports; time of the whole test set on a V100S, not per user.",
        f"ms/user: {_time_note(results, task)}.",
        *(f"Kept: {template}" for template in templates),
    )
    title = f"Discrete template at inference, {task} (the paper's Table 6)"
    return _table(title, "template", metric_columns(task), rows, notes)


def _budget_table(results: AccuracyResults) -> TextTable:
    """What each model and peer was trained with and for how long, a row per bundle or file."""
    schemes = {record.digest: record.scheme for record in results.datasets}
    rows: list[Row] = []
    for record in (*results.models, *results.peers):
        training, name = record.training, record.label
        known: dict[str, Any] = {**(training.get("environment") or {}), **(training.get("options") or {}), **training}
        if record.facts:
            name, seconds = PODX + name, training.get("train_seconds")
            known |= {**record.facts, "minutes": None if seconds is None else seconds / SECONDS_PER_MINUTE}
        elif "epochs" in known:
            known.setdefault("updates", f"{known['epochs']} epochs")
        rows.append(((name, schemes.get(record.dataset, record.scheme)), [known]))
    note = "Minutes: of updates alone, validation not counted. Of peers: as their files say."
    columns = [Column(title, methodcaller("get", key), _amount) for title, key in BUDGET.items()]
    return figures_table("Budget of training", ("model", "ids"), rows, columns, (note,))


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:.1f}"
