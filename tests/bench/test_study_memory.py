"""The search for the largest batch, over memory that is a function."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from podx_bench.study.memory import FIRST_SIZE, MOST_GROWTH, Probe, search_largest


class Machine:
    """Memory by a rule; remembers what it was asked. ``patience``: answers so many times."""

    def __init__(self, peak_mb: Callable[[int], float | None], patience: int = 100) -> None:
        self._peak_mb, self._patience = peak_mb, patience
        self.asked: list[int] = []

    def __call__(self, size: int) -> Probe | None:
        if len(self.asked) == self._patience:
            return None
        self.asked.append(size)
        return Probe(size, self._peak_mb(size))


RULES: dict[str, Callable[[int], float | None]] = {
    "straight": lambda size: 400 + 7 * size,
    "curved": lambda size: 400 + 0.05 * size**2,
    "in steps": lambda size: 400 + 100 * (size // 16),
    "runs out": lambda size: None if size > 75 else 400.0,
    "flat and then a wall": lambda size: 5000.0 if size > 41 else 400.0,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("budget", [450, 1000, 3000])
def test_the_largest_batch_is_found(rule: Callable[[int], float | None], budget: float) -> None:
    machine = Machine(rule)
    largest, above, ended = search_largest(machine, budget, most=100_000, closeness=1e-9)
    assert ended and largest is not None and above is not None
    assert largest.fits(budget) and not above.fits(budget)
    assert above.batch_size == largest.batch_size + 1
    assert len(machine.asked) == len(set(machine.asked)) < 30


def test_a_straight_line_needs_few_tries() -> None:
    machine = Machine(lambda size: 400 + 25 * size)
    largest, above, ended = search_largest(machine, 2000, most=100_000, closeness=0.05)
    assert ended and largest is not None and above is not None
    assert largest.batch_size <= 64 < above.batch_size
    assert above.batch_size - largest.batch_size <= 0.05 * largest.batch_size
    assert machine.asked[0] == FIRST_SIZE and len(machine.asked) <= 6


def test_no_size_is_far_beyond_what_fits() -> None:
    machine = Machine(lambda size: 400 + 0.001 * size)
    search_largest(machine, 1e6, most=50_000, closeness=0.1)
    fitting = 0
    for size in machine.asked:
        assert size <= max(FIRST_SIZE, MOST_GROWTH * fitting)
        fitting = max(fitting, size)


def test_everything_fits() -> None:
    largest, above, ended = search_largest(Machine(lambda _: 1.0), 10, most=5, closeness=0.05)
    assert ended and largest == Probe(5, 1.0) and above is None


def test_nothing_fits() -> None:
    machine = Machine(lambda _: 99.0)
    largest, above, ended = search_largest(machine, 10, most=1000, closeness=0.05)
    assert ended and largest is None and above == Probe(1, 99.0)
    assert machine.asked == [8, 4, 2, 1]


def test_the_time_ends() -> None:
    largest, above, ended = search_largest(Machine(lambda size: 25.0 * size, patience=2), 1e4, 1000, 0.05)
    assert not ended and largest is not None and largest.batch_size > FIRST_SIZE and above is None
