"""A table as plain text cells, and the figures of records as columns of it; how it is drawn is up to the renderer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from podx.text.templates import Task

NOT_MEASURED = "not measured"
NONE = "–"
PERCENT = 100.0

RANKING_METRICS = {"hr_1": "HR@1", "hr_5": "HR@5", "ndcg_5": "NDCG@5", "hr_10": "HR@10", "ndcg_10": "NDCG@10"}
TEXT_METRICS = {"bleu_4": "BLEU-4", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L"}
"""Metrics of lists and of texts, by name with their titles."""
TEXT_NOTE = (
    "BLEU-4: sacrebleu's of the corpus, unsmoothed, words split at white space. ROUGE: rouge-score's F1 without "
    "stemming. References are cut to 20 sub-words, as the training targets are."
)

Row = tuple[tuple[str, ...], Sequence[Any]]
"""First cells of a row, and the records that its figures come from: one for each run; none: not measured."""


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


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None: there is one value only."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Column:
    """A figure of records.

    Attributes:
        value: reads it from a record: a number, of several of which mean and deviation are written; a text, of which
            each is written once; None: it is not known.
        text: writes a number.
    """

    title: str
    value: Callable[[Any], Any]
    text: Callable[[float], str] = short

    def cell(self, records: Sequence[Any]) -> str:
        """What stands in the table for the records."""
        values = [value for record in records if (value := self.value(record)) is not None]
        if not values:
            return NONE
        if isinstance(values[0], str):
            return " / ".join(sorted(set(values)))
        mean, deviation = mean_and_deviation(values)
        return self.text(mean) if deviation is None else f"{self.text(mean)} ± {self.text(deviation)}"


def figures_table(
    title: str, first: Sequence[str], rows: Iterable[Row], columns: Sequence[Column], notes: Sequence[str] = ()
) -> TextTable:
    """A table with names of the first cells and then of the columns."""
    made = []
    for cells, records in rows:
        figures = [column.cell(records) for column in columns]
        made.append((*cells, *(figures if records else [NOT_MEASURED, *[NONE] * (len(columns) - 1)])))
    return TextTable(title, (*first, *(column.title for column in columns)), tuple(made), tuple(notes))


PERCENTILES = tuple(Column(f"{name} ms", attrgetter(f"{name}_ms")) for name in ("p50", "p95", "p99"))
USERS = Column("users", lambda record: None if record.users is None else f"{record.users:,}")


def metric_column(key: str, title: str, text: Callable[[float], str]) -> Column:
    """A metric of records that have ``metrics`` by name."""
    return Column(title, lambda record: record.metrics.get(key), text)


def metric_columns(task: str) -> list[Column]:
    """Metrics of a task, with the decimals that papers give."""
    text = task == Task.EXPLANATION
    titles, digits = (TEXT_METRICS, "{:.3f}") if text else (RANKING_METRICS, "{:.4f}")
    return [metric_column(key, title, digits.format) for key, title in titles.items()]
