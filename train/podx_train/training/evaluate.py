"""Losses on held-out records. Ranking metrics live in :mod:`podx.metrics` and the bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from podx.text.templates import Task
from podx_train.batches.batching import BatchBuilder, PlannedBatch, batch_stream
from podx_train.batches.samplers import EVALUATION_SEED, Pool
from podx_train.model.pod_t5 import PodT5

NO_EPOCH = 0


def plan_evaluation(pool: Pool, batch_size: int, limit: int | None = None) -> list[PlannedBatch]:
    """A pool's records in order; at most ``limit`` of them, the same random ones each time."""
    indices = np.arange(pool.count)
    if limit is not None and limit < pool.count:
        rng = np.random.default_rng([EVALUATION_SEED, limit, pool.count])
        indices = np.sort(rng.choice(pool.count, size=limit, replace=False))
    return [((pool.task, indices[first : first + batch_size]),) for first in range(0, len(indices), batch_size)]


def pool_losses(
    model: PodT5,
    builder: BatchBuilder,
    pools: Sequence[Pool],
    batch_size: int,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[Task, float]:
    """Mean Eq. (1) loss of each pool's records, the model in evaluation mode.

    Args:
        limit: records a task to look at; None: all.
        rank, world: this process and how many there are; each takes its share of the batches.
        total: sums a tensor over the processes.
    """
    device = model.prompts.device
    was_training = model.training
    model.eval()
    losses = {}
    with torch.inference_mode():
        for pool in pools:
            sums = torch.zeros(2, dtype=torch.float64)
            for number, plan in enumerate(plan_evaluation(pool, batch_size, limit)):
                if number % world != rank:
                    continue
                built = builder.build(plan, batch_stream(EVALUATION_SEED, NO_EPOCH, number))
                of_rows = model.sample_losses(built.batch.to(device), built.labels.to(device))
                sums += torch.tensor([float(of_rows.double().sum()), len(of_rows)])
            loss_sum, records = total(sums.to(device, torch.float64)).tolist()
            losses[pool.task] = loss_sum / records
    model.train(was_training)
    return losses
