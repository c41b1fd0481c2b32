"""Does a model know a dataset? The loss of users' own training items against that of other users' items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from podx.bundle.catalog import Catalog
from podx.text.inputs import InputEncoder, pad_rows
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset
from podx_train.eager.generation import model_batch
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import PodT5

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
    encoder = InputEncoder(tokenizer, catalog.text, config.whole_word_rows)
    users = np.flatnonzero(dataset.lengths >= 4) + 1  # a training item to predict, and one before it
    users = np.random.default_rng(SEED).permutation(users)[:USERS]
    if not len(users):
        return Fit(float("nan"), float("nan"), 0)
    records, targets = [], []
    for user in users.tolist():
        items = dataset.train_items(user)
        records.append(encoder.encode(Task.SEQUENTIAL, user, items[:-1][-config.max_history :]))
        targets.append(np.array([*catalog.target(int(items[-1])), tokenizer.eos_id], dtype=np.int64))
    others = targets[1:] + targets[:1]
    sums = np.zeros(2)
    for first in range(0, len(records), BATCH):
        chosen = slice(first, first + BATCH)
        batch = encoder.collate(records[chosen])
        inputs = model_batch(batch, config.task_row(Task.SEQUENTIAL))
        for column, wanted in enumerate((targets, others)):
            labels = torch.from_numpy(pad_rows(wanted[chosen], IGNORED_LABEL))
            with torch.inference_mode():
                sums[column] += float(model.sample_losses(inputs, labels).double().sum())
    return Fit(float(sums[0]) / len(records), float(sums[1]) / len(records), len(records))
