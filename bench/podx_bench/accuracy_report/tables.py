"""The tables of an accuracy report, made from ``accuracy.json`` and published figures alone."""

from __future__ import annotations

from collections.abc import Sequence

from podx.text.templates import ALL_TASKS, Task
from podx_bench.accuracy_report.records import CONSTRAINED, TEXT, DatasetRecord, Study
from podx_bench.accuracy_report.rows import LEARNS_NOTHING, Row, leaks, ordered_datasets, rows_of, scheme_name, spread
from podx_bench.pages.table import NONE, RANKING_COLUMNS, TEXT_COLUMNS, TextTable
from podx_bench.published import (
    BEAUTY,
    LEAK_FREE,
    LOGGED_HR_1,
    NUMBERED,
    POD,
    Published,
    known_dataset,
    published_rows,
)
from podx_bench.workload.baselines import NEAR_USERS, NEXT_NUMBER

REPORTED = "reported"
NUMBER = {Task.SEQUENTIAL: 2, Task.TOPN: 3, Task.EXPLANATION: 4}
"""The paper's number of each task's table."""


def accuracy_tables(study: Study) -> list[TextTable]:
    """One table per task that anything was measured on, and what other papers report without the leak."""
    tables = [*(_accuracy_table(study, task) for task in ALL_TASKS), _leak_free_table(study)]
    return [table for table in tables if table is not None]


def metric_columns(task: Task) -> Sequence[tuple[str, str]]:
    """Name and title of each metric of a task."""
    return TEXT_COLUMNS if task is Task.EXPLANATION else RANKING_COLUMNS


def digits(task: Task) -> int:
    """Decimals that the paper's tables have."""
    return 3 if task is Task.EXPLANATION else 4


def figures(row: Row, task: Task) -> tuple[str, ...]:
    """A cell for each metric of a task."""
    return tuple(spread(row.values(key), digits(task)) for key, _ in metric_columns(task))


def time_of(row: Row) -> str:
    """Milliseconds per user as a cell."""
    return spread(row.milliseconds(), 1)


def dataset_name(study: Study) -> str | None:
    """The paper's dataset that all of a study's are copies of; None: it is another, or there are several."""
    names = {known_dataset(record.stats["users"], record.stats["items"]) for record in study.datasets}
    return names.pop() if len(names) == 1 else None


def _reported(row: Published, task: Task) -> tuple[str, ...]:
    scheme = "paper (leaks)" if row.method in NUMBERED and task is not Task.EXPLANATION else "paper"
    metrics = dict(row.metrics)
    if row.method == POD and task is Task.SEQUENTIAL and row.dataset in LOGGED_HR_1:
        metrics["hr_1"] = LOGGED_HR_1[row.dataset]
    figures = [f"{metrics[key]:.{digits(task)}f}" if key in metrics else NONE for key, _ in metric_columns(task)]
    return (row.method, scheme, REPORTED, NONE, *figures, NONE)


def _accuracy_table(study: Study, task: Task) -> TextTable | None:
    """Tables 2, 3 and 4 of the paper with our rows below its own; None: nothing was measured."""
    decoding = TEXT if task is Task.EXPLANATION else CONSTRAINED
    own = rows_of(study, task, decoding)
    if not own:
        return None
    name = dataset_name(study)
    rows = [_reported(row, task) for row in published_rows(name, task)] if name else []
    for row in own:
        rows.append((row.name, scheme_name(row.dataset), _seeds(row), row.users, *figures(row, task), time_of(row)))
    header = ("method", "ids", "seeds", "users", *(title for _, title in metric_columns(task)), "ms/user")
    title = f"{task} (the paper's Table {NUMBER[task]}{f', {name}' if name else ''})"
    return TextTable(title, header, tuple(rows), tuple(_accuracy_notes(study, task)))


def _seeds(row: Row) -> str:
    return NONE if row.kind == LEARNS_NOTHING else str(len(row.found))


def time_note(study: Study, task: Task) -> str:
    """How the times of a table were taken."""
    timing = study.timing(task)
    if timing is None:
        return _ONE_AFTER_ANOTHER
    return _IN_TURNS.format(timing.batch_size, timing.users, timing.rounds)


def _accuracy_notes(study: Study, task: Task) -> list[str]:
    note = _NOTE.format(time_note(study, task))
    if task is Task.EXPLANATION:
        return [note, _TEXT_NOTE]
    warnings = [_warning(record) for record in ordered_datasets(study) if task is Task.SEQUENTIAL and leaks(record)]
    return [note, _LISTS_NOTE, *warnings]


def _warning(dataset: DatasetRecord) -> str:
    """What the numbers of a dataset give away, to be read beside every row with the same ids."""
    found = [(name, dataset.find(name, Task.SEQUENTIAL)) for name in (NEXT_NUMBER, NEAR_USERS)]
    said = [
        f"{name} reaches HR@10 {one.metrics['hr_10']:.4f}, NDCG@10 {one.metrics['ndcg_10']:.4f}"
        for name, one in found
        if one is not None
    ]
    return (
        f"Warning: {dataset.scheme} ids give the held-out item away. Without any learning, {'; '.join(said)}. Judge "
        f"every row with these ids, reported ones included, by what it adds to that."
    )


def _leak_free_table(study: Study) -> TextTable | None:
    """What other papers report without the leak; None: the data is not Beauty."""
    if dataset_name(study) != BEAUTY:
        return None
    columns = RANKING_COLUMNS[1:]
    rows = tuple(
        (row.method, *(f"{row.metrics[key]:.4f}" if key in row.metrics else NONE for key, _ in columns))
        for row in LEAK_FREE
    )
    header = ("method", *(title for _, title in columns))
    note = "Reported, not measured here: sequential recommendation on Beauty, figures as later papers quote them."
    return TextTable("Leak-free figures of other papers, Beauty", header, rows, (note,))


_NOTE = (
    "reported: figures of the paper, not measured here. Several seeds: mean ± sample standard deviation. "
    "ms/user: from raw ids to raw ids; {}."
)
_IN_TURNS = "all models in turns, the first seed of each, batch size {}, {} users, {} rounds"
_ONE_AFTER_ANOTHER = "of the accuracy runs, one model after another, so small differences mean nothing"
_LISTS_NOTE = (
    "Rows of podx: search inside the catalogue; sequential: seen items left out; top-N: candidates alone. The paper's "
    "rows: search over the whole vocabulary, nothing left out."
)
_TEXT_NOTE = (
    "BLEU-4: of the corpus, unsmoothed, words split at white space. Our ROUGE is rouge-score's F1 without stemming, "
    "the paper's is over sets of n-grams. Our references are cut to 20 sub-words, as the training targets are."
)
