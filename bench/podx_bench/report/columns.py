"""Columns of figures: what is read from records, how it is written, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from podx.text.templates import Task
from podx_bench.harness.records import AccuracyRecord, SpeedRecord, StreamRecord
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

Record = SpeedRecord | StreamRecord | AccuracyRecord
Row = tuple[tuple[str, ...], Sequence[Record]]
"""First cells of a row, and the records that its figures come from: one for each run; none: not measured."""


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

    def cell(self, records: Sequence[Record]) -> str:
        """What stands in the table for the records."""
        values = [value for record in records if (value := self.value(record)) is not None]
        if not values:
            return NONE
        if isinstance(values[0], str):
            return " / ".join(sorted(set(values)))
        mean = self.text(float(np.mean(values)))
        return mean if len(values) == 1 else f"{mean} ± {self.text(float(np.std(values, ddof=1)))}"


def figures_table(
    title: str, first: Sequence[str], rows: Iterable[Row], columns: Sequence[Column], notes: Sequence[str] = ()
) -> TextTable:
    """A table with names of the first cells and then of the columns."""
    made = []
    for cells, records in rows:
        figures = [column.cell(records) for column in columns]
        made.append((*cells, *(figures if records else [NOT_MEASURED, *[NONE] * (len(columns) - 1)])))
    return TextTable(title, (*first, *(column.title for column in columns)), tuple(made), tuple(notes))


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _share(value: float) -> str:
    return f"{PERCENT * value:.2f} %"


def _tokens(record: SpeedRecord | StreamRecord) -> str | None:
    """Mean and largest number of source tokens."""
    if record.source_tokens_mean is None or record.source_tokens_max is None:
        return None
    return f"{record.source_tokens_mean:.1f} / {record.source_tokens_max}"


def _agreement(record: AccuracyRecord) -> str | None:
    return None if record.overlap is None else f"{_share(record.overlap)} of {record.overlap_with}"


MS_PER_USER = Column("ms/user", lambda record: MILLISECONDS / record.users_per_s)
USERS_PER_S = Column("users/s", attrgetter("users_per_s"))
USERS = Column("users", lambda record: f"{record.users:,}")
ENCODE_ONCE_RATIO = Column("× encode-once", attrgetter("ratio_vs_encode_once"), _times)
AS_PUBLISHED_RATIO = Column("× as-published", attrgetter("ratio_vs_as_published"), _times)
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


def _metric(key: str, title: str, text: Callable[[float], str]) -> Column:
    return Column(title, lambda record: record.metrics.get(key), text)


def metric_columns(task: str) -> list[Column]:
    """Metrics of a task."""
    if task == Task.EXPLANATION:
        return [_metric(key, title, "{:.3f}".format) for key, title in TEXT_COLUMNS]
    return [_metric(key, title, "{:.4f}".format) for key, title in RANKING_COLUMNS]


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
    rates = (_metric("invalid", "invalid", _share), _metric("duplicate", "repeated", _share))
    return [*columns, *rates, agreement_column(task), Column("HR@10 lost", attrgetter("hr_10_loss"), _share)]
