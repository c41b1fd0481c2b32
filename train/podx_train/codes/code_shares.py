"""What codes are worth before any training: how often two items in a row share their first codes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from podx_train.data.dataset import Dataset
from podx_train.data.folder import Int32Array


@dataclass(frozen=True)
class Shares:
    """Shares of pairs of items in a row, 0 to 1.

    Attributes:
        first: pairs whose items have the same first code.
        leaf: pairs whose items have all but the last code in common.
        first_by_chance: as ``first``, were the second items of the pairs shuffled.
        leaf_by_chance: as ``leaf``, were they shuffled.
    """

    first: float
    leaf: float
    first_by_chance: float
    leaf_by_chance: float


def training_pairs(dataset: Dataset) -> Int32Array:
    """Every two items in a row of a user's training part, [pairs, 2]."""
    mask, users = dataset.train_mask, dataset.user_of_interaction
    both = mask[:-1] & mask[1:] & (users[:-1] == users[1:])
    return np.stack((dataset.items[:-1][both], dataset.items[1:][both]), axis=1)


def last_training_pairs(dataset: Dataset) -> tuple[Int32Array, Int32Array, Int32Array]:
    """A split inside the training part: what to make codes from, and the pairs to judge them by.

    Returns:
        ``items``, ``offsets``: the sequences less their test items, so that each user's last training item is held
        out together with the validation item; ``pairs``: last but one and last training item, [pairs, 2].
    """
    keep = np.ones(dataset.interaction_count, dtype=np.bool_)
    keep[dataset.offsets[1:] - 1] = False
    offsets = (dataset.offsets - np.arange(dataset.user_count + 1)).astype(np.int32)
    ends = dataset.offsets[1:][dataset.lengths >= 4]
    return dataset.items[keep], offsets, np.stack((dataset.items[ends - 4], dataset.items[ends - 3]), axis=1)


def shares(codes: Sequence[Sequence[str]], pairs: Int32Array) -> Shares | None:
    """How often the items of a pair share codes; None without pairs.

    Args:
        codes: codes of each item, entry i - 1 those of item i.
        pairs: two item numbers per row, [pairs, 2].
    """
    if not len(pairs):
        return None
    first, first_by_chance = _agreement((of_item[0] for of_item in codes), pairs)
    leaf, leaf_by_chance = _agreement((tuple(of_item[:-1]) for of_item in codes), pairs)
    return Shares(first, leaf, first_by_chance, leaf_by_chance)


def _agreement(names: Iterable[Hashable], pairs: Int32Array) -> tuple[float, float]:
    """Share of pairs whose items have the same name, and what it would be with the second column shuffled."""
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    left, right = labels[pairs[:, 0] - 1], labels[pairs[:, 1] - 1]
    chance = np.bincount(left, minlength=len(numbers)) @ np.bincount(right, minlength=len(numbers)) / len(pairs) ** 2
    return float((left == right).mean()), float(chance)
