"""How well a one-pass model ranks the held-out items of validation, beside what popularity would reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from podx.metrics import hit_ratio, ndcg
from podx.text.inputs import pad_rows
from podx_train.batches.batching import BatchBuilder, batch_stream
from podx_train.batches.samplers import EVALUATION_SEED, Pool
from podx_train.data.dataset import Dataset
from podx_train.model.item_search import ItemSearch
from podx_train.model.pod_t5 import PodT5
from podx_train.training.evaluate import NO_EPOCH, plan_evaluation

TOP = 10
VALIDATION_BEAMS = 40
POPULARITY = "popularity"

IntArray = npt.NDArray[np.integer]
Seen = Callable[[int], IntArray]
"""Items of a user that are left out of the answers."""


@dataclass(frozen=True)
class Judge:
    """What validation ranks by.

    Attributes:
        builder, pool: make the held-out records.
        seen: items a user took before.
        popular: items by how often training has them, most first, int64 [items].
    """

    builder: BatchBuilder
    pool: Pool
    seen: Seen
    popular: IntArray

    @classmethod
    def of(cls, dataset: Dataset, builder: BatchBuilder, pool: Pool) -> Judge:
        """For a dataset's validation items."""
        counts = np.zeros(dataset.item_count + 1, dtype=np.int64)
        for user in range(1, dataset.user_count + 1):
            counts[dataset.train_items(user)] += 1
        popular = np.argsort(-counts[1:], kind="stable") + 1
        return cls(builder, pool, lambda user: dataset.history(user, "validation"), popular)

    def measure(
        self,
        model: PodT5,
        batch_size: int,
        limit: int | None,
        rank: int = 0,
        world: int = 1,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> dict[str, float]:
        """HR@10 and NDCG@10 of the model and of popularity, items seen before left out.

        Args:
            limit, rank, world, total: as in :func:`podx_train.training.evaluate.pool_losses`.
        """
        search, was_training = ItemSearch(model.eval(), VALIDATION_BEAMS), model.training
        device, sums = model.prompts.device, np.zeros(5)
        for number, plan in enumerate(plan_evaluation(self.pool, batch_size, limit)):
            if number % world != rank:
                continue
            stream = batch_stream(EVALUATION_SEED, NO_EPOCH, number)
            drawn = self.builder.draw(plan, stream)
            batch = self.builder.pad(drawn, self.builder.write(drawn)).batch.to(device)
            seen = [self.seen(record.user) for record in drawn.records]
            denied = torch.from_numpy(pad_rows(seen, 0)).to(device)
            targets = np.array([record.target[-1] for record in drawn.records])
            lists = search.best(batch, TOP, denied).cpu().numpy()
            popular = np.array([self._most_popular(items) for items in seen])
            of_batch = [f(found, targets, TOP) for found in (lists, popular) for f in (hit_ratio, ndcg)]
            sums += np.array([*of_batch, 1.0]) * len(targets)
        model.train(was_training)
        names = ("hr_10", "ndcg_10", f"{POPULARITY}_hr_10", f"{POPULARITY}_ndcg_10")
        summed = total(torch.from_numpy(sums).to(device)).tolist()
        return {name: value / summed[-1] for name, value in zip(names, summed[:-1], strict=True)}

    def _most_popular(self, seen: IntArray) -> IntArray:
        first = self.popular[: TOP + len(seen)]
        return first[~np.isin(first, seen)][:TOP]


def below_popularity(ranking: Mapping[str, float]) -> bool:
    """Whether popularity ranks the held-out items better."""
    return ranking["ndcg_10"] < ranking[f"{POPULARITY}_ndcg_10"]
