"""The largest batch size whose memory stays within a budget, in as few measurements as may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_SIZE = 8
MOST_GROWTH = 4
"""A size is never tried that is more than this many times the largest known to fit."""
GUESSES = 3
"""So many guesses by a straight line come before each halving, which alone is sure to come to an end."""


@dataclass(frozen=True)
class Probe:
    """A batch size and the most memory that training took with it, MB (10^6 bytes); None: it ran out of memory."""

    batch_size: int
    peak_mb: float | None

    def fits(self, budget_mb: float) -> bool:
        """Whether that is within the budget."""
        return self.peak_mb is not None and self.peak_mb <= budget_mb


def search_largest(
    measure: Callable[[int], Probe | None], budget_mb: float, most: int, closeness: float
) -> tuple[Probe | None, Probe | None, bool]:
    """Look for the largest batch size that fits, as if memory grew with it.

    Args:
        measure: measures a batch size; None: there is no time left.
        most: the largest size that makes sense.
        closeness: the interval left is at most this share of the size found, or 1.

    Returns:
        the largest size found to fit and the smallest found not to, None where there is none; and whether the search
        came to its end.
    """
    fitting: list[Probe] = []
    above: Probe | None = None
    tries = 0
    while True:
        largest = fitting[-1].batch_size if fitting else 0
        end = most + 1 if above is None else above.batch_size
        if end - largest <= max(1, int(closeness * largest)):
            return (fitting[-1] if fitting else None), above, True
        tries += 1
        found = measure(_next_size(fitting, above, budget_mb, most, closeness, halve=tries % (GUESSES + 1) == 0))
        if found is None:
            return (fitting[-1] if fitting else None), above, False
        if found.fits(budget_mb):
            fitting.append(found)
        else:
            above = found


def _next_size(
    fitting: list[Probe], above: Probe | None, budget_mb: float, most: int, closeness: float, halve: bool
) -> int:
    """A size strictly between the largest that fits and the smallest that does not."""
    if not fitting:
        return min(FIRST_SIZE, most) if above is None else above.batch_size // 2
    largest = fitting[-1].batch_size
    end = most + 1 if above is None else above.batch_size
    if halve and above is not None:
        return (largest + end) // 2
    guess = min(_straight(fitting, above, budget_mb), MOST_GROWTH * largest)
    step = max(1, int(closeness * largest))
    return max(largest + 1, min(max(guess, largest + step), end - step))


def _straight(fitting: list[Probe], above: Probe | None, budget_mb: float) -> int:
    """Where a straight line through two measured sizes meets the budget; twice the largest where that says nothing."""
    upper = above if above is not None and above.peak_mb is not None else fitting[-1]
    lower = fitting[-1] if upper is above else (fitting[-2] if len(fitting) > 1 else None)
    if lower is None or upper.peak_mb is None or lower.peak_mb is None or upper.peak_mb <= lower.peak_mb:
        return 2 * fitting[-1].batch_size
    slope = (upper.peak_mb - lower.peak_mb) / (upper.batch_size - lower.batch_size)
    return int(lower.batch_size + (budget_mb - lower.peak_mb) / slope)
