"""Rows that learn nothing. A model that does not beat them has learnt nothing either.

*max(history)+1* recommends the ten numbers after the largest number in the user's history. Where items are numbered in
the order in which users' whole sequences first meet them, the held-out item often *is* the next number, so the row
measures how much of an accuracy figure the numbering gives away. *near user numbers* does the same for users: a file
that lists users as they appear among the reviewers of each product puts users side by side who share items, held-out
ones too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podx.metrics import NOT_AN_ITEM
from podx.text.templates import Task
from podx_bench.workload.scenarios import TEST, Workload
from podx_train.data.dataset import Dataset
from podx_train.data.stats import NEIGHBOUR_REACH

IntArray = npt.NDArray[np.int64]
POPULARITY, NEXT_NUMBER, NEAR_USERS, RANDOM = "popularity", "max(history)+1", "near user numbers", "random"
SUMMARIES = {
    POPULARITY: "learns nothing: the items most often taken in the training part, seen ones left out",
    NEXT_NUMBER: "learns nothing: the numbers after the largest in the history; what the item numbering gives away",
    NEAR_USERS: "learns nothing: what users numbered just before and after took in training; what user numbers tell",
    RANDOM: "learns nothing: candidates in random order",
}


def popularity_order(dataset: Dataset) -> IntArray:
    """Item numbers by count in the training part, largest first, ties by number; int64 [items]."""
    counts = np.bincount(dataset.items[dataset.train_mask], minlength=dataset.item_count + 1)[1:]
    return np.argsort(-counts, kind="stable").astype(np.int64) + 1


def padded(lists: Sequence[IntArray | Sequence[int]], k: int) -> IntArray:
    """The first k of each list, short ones filled up, [lists, k]."""
    table = np.full((len(lists), k), NOT_AN_ITEM, dtype=np.int64)
    for row, items in zip(table, lists, strict=True):
        row[: len(items[:k])] = items[:k]
    return table


def popular_unseen(dataset: Dataset, users: IntArray, k: int) -> IntArray:
    """The k most popular items that each user has not seen before the test, [users, k]."""
    order = popularity_order(dataset)
    seen = [dataset.history(user, TEST) for user in users.tolist()]
    heads = [order[: k + len(items)] for items in seen]  # enough to lose every seen item and keep k
    return padded([head[~np.isin(head, items)] for head, items in zip(heads, seen, strict=True)], k)


def popular_candidates(dataset: Dataset, candidates: tuple[IntArray, ...], k: int) -> IntArray:
    """Each request's k most popular candidates, [requests, k]."""
    place = np.argsort(popularity_order(dataset))
    return padded([items[np.argsort(place[items - 1])] for items in candidates], k)


def next_numbers(dataset: Dataset, users: IntArray, k: int) -> IntArray:
    """max(history)+1 … +k for each user, [users, k]; numbers beyond the catalog are no items."""
    largest = np.array([int(dataset.history(user, TEST).max()) for user in users.tolist()], dtype=np.int64)
    numbers = largest[:, None] + np.arange(1, k + 1)
    return np.where(numbers <= dataset.item_count, numbers, NOT_AN_ITEM)


def near_users(dataset: Dataset, users: IntArray, k: int) -> IntArray:
    """Unseen training items of users with near numbers, each vote weighing 1 / difference of numbers; [users, k]."""
    lists = []
    for user in users.tolist():
        first, last = max(1, user - NEIGHBOUR_REACH), min(dataset.user_count, user + NEIGHBOUR_REACH)
        near = [other for other in range(first, last + 1) if other != user]
        taken = [dataset.train_items(other) for other in near]
        weights = np.repeat([1.0 / abs(other - user) for other in near], [len(items) for items in taken])
        votes = np.bincount(np.concatenate(taken), weights, minlength=dataset.item_count + 1)
        votes[dataset.history(user, TEST)] = 0.0
        best = np.argsort(-votes, kind="stable")[:k]
        lists.append(best[votes[best] > 0])
    return padded(lists, k)


def random_candidates(candidates: tuple[IntArray, ...], k: int, seed: int) -> IntArray:
    """k of each request's candidates in random order, [requests, k]."""
    random = np.random.default_rng(seed)
    return padded([random.permutation(items) for items in candidates], k)


def baseline_lists(dataset: Dataset, workload: Workload, k: int, seed: int) -> dict[str, IntArray]:
    """Lists of every such row that fits the task, by name."""
    if workload.task is Task.SEQUENTIAL:
        rows = {POPULARITY: popular_unseen, NEXT_NUMBER: next_numbers, NEAR_USERS: near_users}
        return {name: row(dataset, workload.users, k) for name, row in rows.items()}
    if workload.task is Task.TOPN:
        popular = popular_candidates(dataset, workload.candidates, k)
        return {POPULARITY: popular, RANDOM: random_candidates(workload.candidates, k, seed)}
    return {}
