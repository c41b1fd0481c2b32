"""Figures of a dataset, its leaks among them: what a table of accuracy should be read beside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, dia_array

from podx_train.data.dataset import Dataset
from podx_train.data.folder import EXPLANATION_SPLITS, Int32Array

CUTOFF = 10  # length of the lists whose hit rates are given
NEIGHBOUR_REACH = 20  # users looked at on either side of a user's number
NEIGHBOUR_SAMPLE = 5_000  # users for whom that is done
SAMPLE_SEED, SHUFFLE_SEED = 0, 1


@dataclass(frozen=True)
class DatasetStats:
    """Counts, lengths and leak measures. Shares lie in 0..1.

    Attributes:
        users, items, interactions: counts.
        density: interactions / (users × items).
        length_median, length_p95, length_max: items per user.
        max_plus_one_hr1: share of users whose test item is the largest item number of their history plus one.
        max_plus_one_hr10: share whose test item is among that number and the nine after it.
        near_users_hr10: share whose test item is among the ten (unseen) items that the 20 users numbered before and
            the 20 after them took most in training, near ones weighing more. It learns nothing of the user.
        near_users_shuffled_hr10: the same after shuffling user numbers, which is what no information gives.
        explanations: records per split.
        leaky_explanations: training records of a user's own validation or test item.
        test_negatives, validation_negatives: items per negative list, 0 where there are none.
        scheme: how numbers were given.
    """

    scheme: str
    users: int
    items: int
    interactions: int
    density: float
    length_median: float
    length_p95: float
    length_max: int
    max_plus_one_hr1: float
    max_plus_one_hr10: float
    near_users_hr10: float
    near_users_shuffled_hr10: float
    test_negatives: int
    validation_negatives: int
    explanations: dict[str, int]
    leaky_explanations: int


def dataset_stats(dataset: Dataset) -> DatasetStats:
    """All figures of a dataset; a few seconds for 200,000 interactions."""
    lengths = dataset.lengths
    step = _steps_past_largest(dataset)
    shuffled = np.random.default_rng(SHUFFLE_SEED).permutation(dataset.user_count)
    return DatasetStats(
        scheme=dataset.scheme,
        users=dataset.user_count,
        items=dataset.item_count,
        interactions=dataset.interaction_count,
        density=dataset.interaction_count / (dataset.user_count * dataset.item_count),
        length_median=float(np.median(lengths)),
        length_p95=float(np.percentile(lengths, 95)),
        length_max=int(lengths.max()),
        max_plus_one_hr1=float((step == 1).mean()),
        max_plus_one_hr10=float(((step >= 1) & (step <= CUTOFF)).mean()),
        near_users_hr10=near_users_hit_rate(dataset, np.arange(dataset.user_count)),
        near_users_shuffled_hr10=near_users_hit_rate(dataset, shuffled),
        test_negatives=0 if dataset.test_negatives is None else dataset.test_negatives.shape[1],
        validation_negatives=0 if dataset.validation_negatives is None else dataset.validation_negatives.shape[1],
        explanations={split: len(dataset.explanations[split]) for split in EXPLANATION_SPLITS},
        leaky_explanations=leaky_explanations(dataset),
    )


def _steps_past_largest(dataset: Dataset) -> Int32Array:
    """Test item minus the largest item number of the history (validation item included), [users]."""
    ends = dataset.offsets[1:] - 1
    history = dataset.items.copy()
    history[ends] = 0
    return dataset.items[ends] - np.maximum.reduceat(history, dataset.offsets[:-1])


def leaky_explanations(dataset: Dataset) -> int:
    """How many training explanations are of a user's own validation or test item."""
    return sum(
        record.item in (dataset.validation_item(record.user), dataset.test_item(record.user))
        for record in dataset.explanations["train"]
    )


def near_users_hit_rate(dataset: Dataset, place: NDArray[np.int64]) -> float:
    """HR@10 of recommending what users at nearby places took in training, weighted by 1 / distance.

    At most :data:`NEIGHBOUR_SAMPLE` users are judged, the same ones whatever their places.

    Args:
        dataset: the data.
        place: [users] the place of user i + 1; ``arange`` for its number.
    """
    count, mask = dataset.user_count, dataset.train_mask
    sample = np.random.default_rng(SAMPLE_SEED).permutation(count)[:NEIGHBOUR_SAMPLE]
    taken = (place[dataset.user_of_interaction - 1][mask], dataset.items[mask])
    training = csr_array((np.ones(len(taken[0])), taken), shape=(count, dataset.item_count + 1))
    reach = [d for d in range(-NEIGHBOUR_REACH, NEIGHBOUR_REACH + 1) if d != 0 and abs(d) < count]
    nearness = dia_array(([np.full(count, 1.0 / abs(d)) for d in reach], reach), shape=(count, count)).tocsr()
    votes = (nearness[place[sample]] @ training).tocsr()
    hits = 0
    for row, user in enumerate((sample + 1).tolist()):
        items, weights = (array[votes.indptr[row] : votes.indptr[row + 1]] for array in (votes.indices, votes.data))
        unseen = ~np.isin(items, dataset.history(user, "test"))
        items, weights, target = items[unseen], weights[unseen].round(9), dataset.test_item(user)
        own = weights[items == target]
        ahead = (weights > own) | ((weights == own) & (items < target)) if len(own) else np.ones(CUTOFF)
        hits += int(np.count_nonzero(ahead) < CUTOFF)
    return hits / len(sample)
