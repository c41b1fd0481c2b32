"""Time: how it is taken, and how it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MILLISECONDS = 1e3
SECONDS = 60.0
"""Of these there are so many in a second, and in a minute."""


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and how many milliseconds it took."""
    start = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - start) * MILLISECONDS


def about(seconds: float) -> str:
    """A length of time in words, no more exact than it is known."""
    minutes = seconds / SECONDS
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"
