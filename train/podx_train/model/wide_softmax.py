"""Cross-entropy over very many choices on a CPU, a few rows at a time.

The plain way writes logits, probabilities and their gradients for all rows to memory, several times over; with a choice
of ten thousand items that takes longer than the arithmetic. A few rows' logits stay in the cache, where loss and
gradients are made of them at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 64
"""Rows whose logits over some ten thousand choices fit into a core's cache."""


def wide_cross_entropy(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of ``targets`` under a softmax of ``states @ table.T``, float32 [rows].

    Args:
        states: [rows, d].
        table: [choices, d].
        targets: int64 [rows], places in the table.
    """
    losses: Tensor = _WideCrossEntropy.apply(states.float(), table.float(), targets)
    return losses


class _WideCrossEntropy(torch.autograd.Function):
    """Makes the gradients along with the losses, as if all rows weighed the same, which they do in training."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        losses, *gradients = _pass(states, table, targets, torch.ones(len(states)), any(ctx.needs_input_grad))
        ctx.save_for_backward(states, table, targets, *gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        (weights,) = outer
        states, table, targets, of_states, of_table = ctx.saved_tensors
        if len(weights) and not bool((weights == weights[0]).all()):
            _, of_states, of_table = _pass(states, table, targets, weights, True)
            return of_states, of_table, None
        factor = weights[:1].sum()
        return of_states * factor, of_table * factor, None


def _pass(
    states: Tensor, table: Tensor, targets: Tensor, weights: Tensor, with_gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [rows], and gradients of their weighted sum with respect to states and table (zeros where not wanted)."""
    losses, of_states, of_table = states.new_empty(len(states)), torch.zeros_like(states), torch.zeros_like(table)
    for rows in torch.arange(len(states)).split(ROWS):
        chosen = slice(int(rows[0]), int(rows[-1]) + 1)
        few, place = states[chosen], targets[chosen, None]
        logits = few @ table.T
        highest = logits.amax(dim=1, keepdim=True)
        wanted = logits.gather(1, place) - highest
        raised = logits.sub_(highest).exp_()
        total = raised.sum(dim=1, keepdim=True)
        losses[chosen] = (total.log() - wanted)[:, 0]
        if with_gradients:
            weight = weights[chosen, None]
            surplus = raised.mul_(weight / total).scatter_add_(1, place, -weight)
            of_states[chosen] = surplus @ table
            of_table.addmm_(surplus.T, few)
    return losses, of_states, of_table
