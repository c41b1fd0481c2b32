"""The tables of an accuracy report, made from ``accuracy.json`` and published figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy.published import (
    BEAUTY,
    DROPPED,
    KEPT,
    LEAK_FREE,
    LOGGED_HR_1,
    NUMBERED,
    POD,
    TABLE_6,
    known_dataset,
    published_rows,
)
from podx_bench.accuracy.records import CONSTRAINED, TEXT, AccuracyResults, DatasetRecord
from podx_bench.accuracy.rows import (
    LEARNS_NOTHING,
    MODEL,
    PODX,
    Row,
    leaks,
    ordered_datasets,
    rows_of,
    scheme_name,
    side_by_side,
    spread,
)
from podx_bench.pages.table import NONE, PERCENT, RANKING_COLUMNS, TEXT_COLUMNS, TextTable
from podx_bench.workload.baselines import NEAR_USERS, NEXT_NUMBER

REPORTED = "reported"
NUMBER = {Task.SEQUENTIAL: 2, Task.TOPN: 3, Task.EXPLANATION: 4}
"""The paper's number of each task's table."""
HITS = (("hr_10", "HR@10"), ("ndcg_10", "NDCG@10"))
RATES = (("invalid", "invalid %"), ("duplicate", "repeated %"), ("seen", "seen %"), ("outside", "no candidate %"))
SECONDS_PER_MINUTE = 60.0


def all_tables(results: AccuracyResults) -> list[TextTable]:
    """Every table that the results can fill, in the order of the report."""
    tables = [
        *(accuracy_table(results, task) for task in ALL_TASKS),
        _leak_free_table(results),
        leak_table(results),
        *(decoding_table(results, task) for task in (Task.SEQUENTIAL, Task.TOPN)),
        *(template_table(results, task) for task in ALL_TASKS),
        _budget_table(results),
        _peer_table(results),
    ]
    return [table for table in tables if table is not None and table.rows]


def metric_columns(task: Task) -> Sequence[tuple[str, str]]:
    """Name and title of each metric of a task."""
    return TEXT_COLUMNS if task is Task.EXPLANATION else RANKING_COLUMNS


def digits(task: Task) -> int:
    """Decimals that the paper's tables have."""
    return 3 if task is Task.EXPLANATION else 4


def metric_cells(metrics: Mapping[str, float], task: Task) -> list[str]:
    """A cell for each metric of a task, as far as they are known."""
    return [f"{metrics[key]:.{digits(task)}f}" if key in metrics else NONE for key, _ in metric_columns(task)]


def _figures(row: Row, task: Task) -> tuple[str, ...]:
    return tuple(spread(row.values(key), digits(task)) for key, _ in metric_columns(task))


def _time(row: Row) -> str:
    return spread(row.milliseconds(), 1)


def _rows(results: AccuracyResults, task: Task) -> list[Row]:
    return rows_of(results, task, TEXT if task is Task.EXPLANATION else CONSTRAINED)


def dataset_name(results: AccuracyResults) -> str | None:
    """The paper's dataset that all of a report's are copies of; None: it is another, or there are several."""
    names = {known_dataset(record.stats["users"], record.stats["items"]) for record in results.datasets}
    return names.pop() if len(names) == 1 else None


def accuracy_table(results: AccuracyResults, task: Task) -> TextTable | None:
    """Table 2, 3 or 4 of the paper with our rows below its rows; None: nothing was measured."""
    measured = _rows(results, task)
    if not measured:
        return None
    name = dataset_name(results)
    rows: list[tuple[str, ...]] = []
    for reported in published_rows(name, task) if name else []:
        scheme = "paper (leaks)" if reported.method in NUMBERED and task is not Task.EXPLANATION else "paper"
        metrics = dict(reported.metrics)
        if reported.method == POD and task is Task.SEQUENTIAL and reported.dataset in LOGGED_HR_1:
            metrics["hr_1"] = LOGGED_HR_1[reported.dataset]
        rows.append((reported.method, scheme, REPORTED, NONE, *metric_cells(metrics, task), NONE))
    for row in measured:
        seeds = NONE if row.kind == LEARNS_NOTHING else str(len(row.seeds))
        rows.append((row.name, scheme_name(row.dataset), seeds, row.users, *_figures(row, task), _time(row)))
    notes = [_NOTE.format(_time_note(results, task)), _TEXT_NOTE if task is Task.EXPLANATION else _LISTS_NOTE]
    if task is Task.SEQUENTIAL:
        notes += [_warning(record) for record in ordered_datasets(results) if leaks(record)]
    header = ("method", "ids", "seeds", "users", *(title for _, title in metric_columns(task)), "ms/user")
    title = f"{task} (the paper's Table {NUMBER[task]}{f', {name}' if name else ''})"
    return TextTable(title, header, tuple(rows), tuple(notes))


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


_NOTE = (
    "reported: figures of the paper, not measured here. Several seeds: mean ± sample standard deviation. "
    "ms/user: from raw ids to raw ids; {}."
)
_LISTS_NOTE = (
    "Rows of podx: search inside the catalog; sequential: seen items left out; top-N: candidates alone. The paper's "
    "rows: search over the whole vocabulary, nothing left out."
)
_TEXT_NOTE = (
    "BLEU-4: of the corpus, unsmoothed, words split at white space. Our ROUGE is rouge-score's F1 without stemming, "
    "the paper's is over sets of n-grams. Our references are cut to 20 sub-words, as the training targets are."
)


def _leak_free_table(results: AccuracyResults) -> TextTable | None:
    """What other papers report without the leak; None: the data is not Beauty."""
    if dataset_name(results) != BEAUTY:
        return None
    rows = tuple((row.method, *metric_cells(row.metrics, Task.SEQUENTIAL)[1:]) for row in LEAK_FREE)
    header = ("method", *(title for _, title in RANKING_COLUMNS[1:]))
    note = "Reported, not measured here: sequential recommendation on Beauty, figures as later papers quote them."
    return TextTable("Leak-free figures of other papers, Beauty", header, rows, (note,))


def leak_table(results: AccuracyResults) -> TextTable:
    """Held-out pairs that the data gives away, a row per dataset."""
    rows = []
    for dataset in ordered_datasets(results):
        stats, pairs = dataset.stats, dataset.leaks["pairs"]
        parts = {name: f"{count:,} ({PERCENT * count / pairs:.2f} %)" for name, count in dataset.leaks.items()}
        rows.append(
            (
                dataset.name,
                dataset.scheme,
                f"{pairs:,}",
                *(parts[name] for name in ("next_number", "within_ten")),
                f"{stats['near_users_hr10']:.4f} / {stats['near_users_shuffled_hr10']:.4f}",
                f"{sum(stats['explanations'].values()):,}",
                *(parts[name] for name in ("explained_test", "explained_validation")),
            )
        )
    header = (
        "data", "ids", "test pairs", "next number", "next ten", "near users", "explanations", "explained: test",
        "validation",
    )  # fmt: skip
    return TextTable("Held-out pairs that leak", header, tuple(rows), (_LEAK_NOTE,))


_LEAK_NOTE = (
    "Next number, next ten: test items that are max(history)+1, or among it and the nine after it. Near users: HR@10 "
    "of what users with near numbers took in training / the same with shuffled user numbers. Explained: held-out pairs "
    "whose explanation is among the training records."
)


def decoding_table(results: AccuracyResults, task: Task) -> TextTable:
    """Constrained and free search side by side, on the same users."""
    rates = [(key, title) for key, title in RATES if task is Task.TOPN or key != "outside"]
    rows = []
    for pair in side_by_side(results, task):
        for how, row in zip(("catalog", "free"), pair, strict=True):
            hits = [spread(row.values(key), 4) for key, _ in HITS]
            shares = [spread([PERCENT * value for value in row.values(key)], 2) for key, _ in rates]
            rows.append((row.name, scheme_name(row.dataset), how, row.users, *hits, *shares, _time(row)))
    header = ("method", "ids", "search", "users", *(title for _, title in (*HITS, *rates)), "ms/user")
    return TextTable(f"Constrained and unconstrained decoding, {task}", header, tuple(rows), (_DECODING_NOTE,))


_DECODING_NOTE = (
    "Free: the paper's protocol, the whole vocabulary and nothing excluded. Shares of all answers: invalid names no "
    "item, repeated was given before in the same list, seen is in the user's history. No answer is replaced."
)


def template_table(results: AccuracyResults, task: Task) -> TextTable | None:
    """The paper's Table 6: the discrete template kept at inference or dropped; None: no model keeps one."""
    measured = [row for row in _rows(results, task) if row.kind == MODEL]
    templates = {record.templates[task] for row in measured for record in row.records if task in record.templates}
    if not templates:
        return None
    rows: list[tuple[str, ...]] = [
        (f"POD, {r.dataset}, {REPORTED}", "paper", r.method, NONE, *metric_cells(r.metrics, task), r.time or NONE)
        for r in TABLE_6
        if r.task is task
    ]
    for row in measured:
        kept = KEPT if any(task in record.templates for record in row.records) else DROPPED
        rows.append((row.name, scheme_name(row.dataset), kept, row.users, *_figures(row, task), _time(row)))
    header = ("method", "ids", "template", "users", *(title for _, title in metric_columns(task)), "ms/user")
    notes = (
        "reported: on Sports; time of the whole test set on a V100S, not per user.",
        f"ms/user: {_time_note(results, task)}.",
        *(f"Kept: {template}" for template in sorted(templates)),
    )
    return TextTable(f"Discrete template at inference, {task} (the paper's Table 6)", header, tuple(rows), notes)


def _budget_table(results: AccuracyResults) -> TextTable:
    """What each model was trained with and for how long, a row per bundle."""
    schemes = {record.digest: record.scheme for record in results.datasets}
    rows = []
    for record in results.models:
        facts, training = record.facts, record.training
        options, environment = training.get("options") or {}, training.get("environment") or {}
        seconds = training.get("train_seconds")
        cells = (
            training.get("seed"), facts.get("parameters"), facts.get("precision"), facts.get("bundle_mb"),
            facts.get("prompts"), training.get("updates"), options.get("batch_size"), training.get("best_epoch"),
            None if seconds is None else f"{seconds / SECONDS_PER_MINUTE:.1f}", environment.get("device"),
        )  # fmt: skip
        rows.append((PODX + record.label, schemes.get(record.dataset, record.scheme), *map(_said, cells)))
    header = (
        "model", "ids", "seed", "parameters", "precision", "MB", "prompts", "updates", "batch", "best epoch",
        "minutes", "trained on",
    )  # fmt: skip
    return TextTable("Budget of training", header, tuple(rows), ("Minutes: of updates alone, validation not counted.",))


def _peer_table(results: AccuracyResults) -> TextTable:
    """What each peer's file says of its training."""
    rows = []
    for record in results.peers:
        training = record.training
        minutes = training.get("minutes")
        said = f"{minutes:.1f}" if isinstance(minutes, int | float) else NONE
        rows.append((record.label, record.scheme, _said(training.get("seed")), _said(training.get("epochs")), said))
    return TextTable("Peers, as their files say", ("peer", "ids", "seed", "epochs", "minutes"), tuple(rows))


def _said(value: object) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else str(value)
