"""Does a model know a dataset? The loss of users' own training items against that of other users' items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.batches.batching import BatchBuilder
from podx_train.batches.samplers import Pool, Record
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import PodT5
from podx_train.training.evaluate import pool_losses

USERS = 64
BATCH = 16
SEED = 20230821
MARGIN = 0.1
"""Nats a token. A model of random weights finds own and others' items alike; a trained one is far above this."""


@dataclass(frozen=True)
class Fit:
    """Mean loss a token, over ``users`` users: of their last training item, and of another user's."""

    loss: float
    other_loss: float
    users: int

    @property
    def knows(self) -> bool:
        """Whether users' own items are clearly the likelier ones."""
        return self.loss < self.other_loss - MARGIN


def measure_fit(model: PodT5, tokenizer: Tokenizer, dataset: Dataset) -> Fit:
    """Loss of the sequential task on up to 64 users, always the same; nothing held out is looked at.

    Args:
        model: in evaluation mode, on the CPU.

    Raises:
        TokenizerError, CatalogError: the items cannot be written with the tokeniser, or not told apart.
    """
    catalog = Catalog.create(dataset.item_ids, tokenizer, dataset.item_texts)
    _ = catalog.trie  # two items of the same tokens are found now
    config = model.config
    users = np.flatnonzero(dataset.lengths >= 4) + 1  # a training item to predict, and one before it
    users = np.random.default_rng(SEED).permutation(users)[:USERS]
    if not len(users):
        return Fit(float("nan"), float("nan"), 0)
    own = [dataset.train_items(user) for user in users.tolist()]
    targets = [np.array([*catalog.target(int(items[-1])), tokenizer.eos_id], dtype=np.int64) for items in own]

    def loss(wanted: list[npt.NDArray[np.int64]]) -> float:
        records = [
            Record(Task.SEQUENTIAL, user, items[:-1][-config.max_history :], target)
            for user, items, target in zip(users.tolist(), own, wanted, strict=True)
        ]
        pool = Pool(Task.SEQUENTIAL, len(records), lambda indices, _: [records[i] for i in indices.tolist()])
        encoder = InputEncoder(tokenizer, catalog.text, config.whole_word_rows)
        return pool_losses(model, BatchBuilder(config, encoder, (pool,)), (pool,), BATCH)[Task.SEQUENTIAL]

    return Fit(loss(targets), loss(targets[1:] + targets[:1]), len(users))
