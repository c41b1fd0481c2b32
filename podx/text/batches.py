"""Requests → batches of similar length, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TypeVar

from podx.errors import ConfigError

DEFAULT_BATCH_SIZE = 32
Answer = TypeVar("Answer")


def in_batches(records: Sequence[Sized], batch_size: int, run: Callable[[Sequence[int]], list[Answer]]) -> list[Answer]:
    """Run rows of similar length together; answers in the order of the records.

    Args:
        run: answers the records at these places, in this order.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    order = sorted(range(len(records)), key=lambda row: len(records[row]))
    answers: dict[int, Answer] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        answers.update(zip(rows, run(rows), strict=True))
    return [answers[row] for row in range(len(records))]
