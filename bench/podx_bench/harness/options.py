"""What the options of several benches share."""

from __future__ import annotations

import os

from podx.errors import ConfigError

DEVICES = ("cpu", "cuda")
DEFAULT_K = 10
LEAST_ACCURACY_K = 10
"""HR@10 and NDCG@10 need ten places."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def parse_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Ascending numbers from a comma-separated list, each once.

    Raises:
        ConfigError: a part is no whole number, or there is none.
    """
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
        if not numbers or not all(number >= 0 and number.is_integer() for number in numbers):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{flag} must be whole numbers separated by commas, as in 1,32 or 1e4, not {text!r}"
        ) from None
    return tuple(sorted(map(int, set(numbers))))
