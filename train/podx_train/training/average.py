"""A moving average of the weights: what is validated and published in place of the last update's (Polyak and Juditsky
1992). It lies in the optimiser's state, beside the moments, and is saved and resumed with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

AVERAGE = "average"


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float, updates: int) -> None:
    """Move the average of every weight that the optimiser has changed towards what the weight is now.

    Args:
        decay: share of the average that stays; less in the first updates, ``(1 + updates) / (10 + updates)``, so that
            the random start is soon forgotten.
        updates: taken so far, this one included.
    """
    changed = [(weight, state) for weight, state in optimizer.state.items() if "step" in state]
    averages = [state.setdefault(AVERAGE, weight.detach().clone()) for weight, state in changed]
    torch._foreach_lerp_(averages, [weight for weight, _ in changed], 1 - min(decay, (1 + updates) / (10 + updates)))


@contextmanager
def averaged_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, the weights are their averages, where there are any."""
    pairs = [(weight, state[AVERAGE]) for weight, state in optimizer.state.items() if AVERAGE in state]
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


@torch.no_grad()
def _swap(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for weight, average in pairs:
        kept = weight.clone()
        weight.copy_(average)
        average.copy_(kept)
