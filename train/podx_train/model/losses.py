"""Losses a record: means over its target tokens, as in Eq. (1) of the POD paper."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

IGNORED_LABEL = -100
"""Label of padding in the targets: it takes no part in the loss."""


def target_means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean over the positions that have a label; both [batch, target], the result [batch]."""
    counted = labels != IGNORED_LABEL
    return (values * counted).sum(dim=1) / counted.sum(dim=1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of each record's target tokens.

    Args:
        logits: [batch, target, vocabulary].
        labels: int64 [batch, target], padded with :data:`IGNORED_LABEL`.

    Returns:
        float32 [batch].
    """
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    ).view(labels.shape)
    return target_means(losses, labels)
