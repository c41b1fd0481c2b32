"""A table as plain text cells; how it is drawn is up to the renderer."""

from __future__ import annotations

from dataclasses import dataclass

NOT_MEASURED = "not measured"
NONE = "–"
PERCENT = 100.0
MILLISECONDS = 1e3

RANKING_COLUMNS = (
    ("hr_1", "HR@1"),
    ("hr_5", "HR@5"),
    ("ndcg_5", "NDCG@5"),
    ("hr_10", "HR@10"),
    ("ndcg_10", "NDCG@10"),
)
TEXT_COLUMNS = (("bleu_4", "BLEU-4"), ("rouge_1", "ROUGE-1"), ("rouge_2", "ROUGE-2"), ("rouge_l", "ROUGE-L"))
"""Metrics of lists and of texts, by name and title."""


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
