"""The ceiling that the last of an item's tokens may have (docs/architecture.md, one-pass models)."""

from __future__ import annotations

import torch
from torch import Tensor

from podx.bundle.manifest import LIKELY

TINY = 1e-30


def under_ceiling(logits: Tensor, before: Tensor, least: float) -> Tensor:
    """Log-probabilities of an item's last token, of whose n siblings none is likelier than 1/n + ceiling · (1 - 1/n).

    Where the softmax of the logits has a likelier one, it is mixed with even chances until it has not. So a search
    that knows the tokens before knows how likely the item can be at most, whatever the states are.

    Args:
        logits: [rows, places], -inf where there is no choice.
        before: [rows], log-probability of the tokens before. The ceiling is theirs over :data:`LIKELY`, 1 at most.
        least: the ceiling, where that is lower.
    """
    ceiling = (before.exp() / LIKELY).clamp(least, 1.0)[:, None]
    odds, there = logits.softmax(dim=-1), logits > -torch.inf
    even = 1 / there.sum(dim=-1, keepdim=True)
    above = (odds.amax(dim=-1, keepdim=True) - even).clamp(min=TINY)
    kept = (ceiling * (1 - even) / above).clamp(max=1.0)
    return (kept * odds + (1 - kept) * even).clamp(min=TINY).log().masked_fill(~there, -torch.inf)
