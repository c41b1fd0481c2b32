"""The cache of texts."""

from __future__ import annotations

import numpy as np
import pytest

from podx.graphs.text_stepper import lay_out


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [((3, 2, 2, 4, 3), (3, 2, 2, 6, 3)), ((5, 1, 1, 1, 2), (5, 1, 1, 9, 2)), ((2, 1, 2, 2, 1), (2, 3, 2, 4, 1))],
)
def test_a_cache_gets_more_room(before: tuple[int, ...], after: tuple[int, ...], own: bool) -> None:
    """Where it lies, which gives room for steps, or elsewhere."""
    if own and before[:3] != after[:3]:
        pytest.skip("more beams come in new memory")
    memory = np.zeros(int(np.prod(after)), dtype=np.float32)
    cache = (memory if own else memory.copy())[: int(np.prod(before))].reshape(before)
    cache[:] = np.random.default_rng(0).random(before)
    expected = cache.copy()
    lay_out(cache, memory, after)
    assert np.array_equal(memory.reshape(after)[:, : before[1], :, : before[3]], expected)
