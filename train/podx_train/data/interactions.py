"""Interactions as they come out of any reader, and the account of what was dropped on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from podx.errors import DataError
from podx_train.data.folder import Int32Array

EXAMPLES_PER_REASON = 3
DUPLICATE_REASON = "repeated user-item pair (the earliest is kept)"


@dataclass(frozen=True)
class DropReport:
    """How much was dropped, by reason, with the first few places of each.

    Attributes:
        counts: number of dropped things by reason, in order of first occurrence.
        examples: up to three places by reason, such as ``line 7: 'abc'``.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All that was dropped, over all reasons."""
        return sum(self.counts.values())

    def plus(self, reason: str, count: int, examples: Iterable[str] = ()) -> DropReport:
        """This report with ``count`` more for ``reason``; unchanged when ``count`` is 0."""
        if count == 0:
            return self
        counts = {**self.counts, reason: self.counts.get(reason, 0) + count}
        places = (*self.examples.get(reason, ()), *examples)[:EXAMPLES_PER_REASON]
        return DropReport(counts, {**self.examples, reason: places})

    def text(self) -> str:
        """One line per reason, for error messages."""
        lines = []
        for reason, count in self.counts.items():
            places = "; ".join(self.examples.get(reason, ()))
            lines.append(f"  {count} × {reason}" + (f" ({places})" if places else ""))
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Interactions:
    """User-item interactions in input order, ids as codes into name lists; each user-item pair occurs once.

    Attributes:
        users: int32 [n], index into ``user_names``.
        items: int32 [n], index into ``item_names``.
        user_names: raw user ids, by first appearance in the input (by number where ``numbered``).
        item_names: raw item ids, likewise.
        timestamps: float64 [n], seconds; None where the input has none and its order is the order of time.
        reviews: text of each interaction (empty where there is none); None where the input has no such column.
        numbered: the raw ids are numbers given by an earlier preparation, as in S3-Rec files.
        report: what the reader dropped.
    """

    users: Int32Array
    items: Int32Array
    user_names: list[str]
    item_names: list[str]
    timestamps: NDArray[np.float64] | None
    reviews: list[str] | None
    numbered: bool
    report: DropReport

    def __len__(self) -> int:
        """Number of interactions."""
        return len(self.users)


@dataclass
class RowCollector:
    """Rows as a reader accepts them, until :meth:`finish` turns them into :class:`Interactions`."""

    users: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    timestamps: list[float] = field(default_factory=list)
    reviews: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    report: DropReport = field(default_factory=DropReport)

    def drop(self, reason: str, place: str) -> None:
        """Note a row that is left out."""
        self.report = self.report.plus(reason, 1, (place,))

    def finish(self, source: str, timed: bool, reviewed: bool, numbered: bool = False) -> Interactions:
        """Interactions with ids as codes and repeated pairs removed.

        Args:
            source: name of the input for the error message.
            timed: rows carry timestamps.
            reviewed: the input has a review column.
            numbered: ids are numbers; they are coded in order of the number instead of appearance.

        Raises:
            DataError: no row is left; the message lists why the rows were dropped.
        """
        if not self.users:
            reasons = self.report.text()
            detail = f"; every row was dropped:\n{reasons}" if reasons else ": the file has no rows"
            raise DataError(f"{source} holds no usable interaction{detail}\nmend the file or name its columns")
        users, user_names = _encode(self.users, numbered)
        items, item_names = _encode(self.items, numbered)
        times = np.array(self.timestamps, dtype=np.float64) if timed else np.zeros(len(users))
        keep = _earliest_of_pairs(users, items, times)
        for row in np.flatnonzero(~keep).tolist():
            self.drop(DUPLICATE_REASON, f"{self.places[row]}: user {self.users[row]!r}, item {self.items[row]!r}")
        return Interactions(
            users=users[keep],
            items=items[keep],
            user_names=user_names,
            item_names=item_names,
            timestamps=times[keep] if timed else None,
            reviews=[text for text, kept in zip(self.reviews, keep.tolist(), strict=True) if kept]
            if reviewed
            else None,
            numbered=numbered,
            report=self.report,
        )


def _encode(names: list[str], numbered: bool) -> tuple[Int32Array, list[str]]:
    """Codes [n] into the list of distinct names, which is in order of appearance or of the number."""
    distinct = list(dict.fromkeys(names))
    if numbered:
        distinct.sort(key=int)
    index = {name: code for code, name in enumerate(distinct)}
    return np.fromiter((index[name] for name in names), dtype=np.int32, count=len(names)), distinct


def _earliest_of_pairs(users: Int32Array, items: Int32Array, times: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows to keep so that each pair stays once: the earliest in time, the first in the input among equals."""
    order = np.argsort(times, kind="stable")
    pairs = users[order].astype(np.int64) * (int(items.max()) + 1) + items[order]
    keep = np.zeros(len(users), dtype=np.bool_)
    keep[order[np.unique(pairs, return_index=True)[1]]] = True
    return keep
