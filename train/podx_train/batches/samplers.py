"""What a record of each task is made of: a user, some items, and the tokens to predict.

Every draw comes from a generator that the caller seeds, so a batch is a function of (seed, epoch, position) alone.
Positions in a sequence of L items count from 0; the last two are held out (POD paper, section 4.1; the ranges of the
training segment are those of its published code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog
from podx.bundle.trie import NO_ITEM
from podx.errors import ConfigError
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.data.explanations import explanation_targets

IntArray = npt.NDArray[np.integer]
EvaluationSplit = Literal["validation", "test"]

NEGATIVES = 99
"""Items a top-N target is mixed with."""
HELD_OUT = 2
"""Items at the end of each sequence that training never sees."""
SHORTEST_SEGMENT_SEQUENCE = 4
"""Below this many items a user has no (history, target) pair to learn from; such a user still trains top-N."""

EVALUATION_SEED = 20_231_021
"""Seed of every fixed list of validation and test: candidates keep their order from run to run."""
_SPLIT_NUMBER = {"validation": 0, "test": 1}
_EXPLANATION_SPLIT = {"validation": "val", "test": "test"}


class Record(NamedTuple):
    """One training or evaluation record.

    Attributes:
        task: its task.
        user: user number.
        items: history, candidates, or the one item, by number.
        target: int64 [tokens], what to predict, end of sequence included. In one pass over a user: int64 [items + 1],
            the item that follows each position, from the start of the sequence on; 0: none is to be learnt there.
    """

    task: Task
    user: int
    items: IntArray
    target: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """The records a task offers: how many an epoch passes, and how to make those of given indices.

    Attributes:
        task: the task.
        count: records in an epoch.
        draw: (indices [n], generator) → n records. Evaluation pools ignore the generator.
        lengths: int [count], items in each record's input, where that is known before it is drawn.
    """

    task: Task
    count: int
    draw: Callable[[IntArray, np.random.Generator], list[Record]]
    lengths: IntArray | None = None


def draw_segments(lengths: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """First and last position of a training segment for each sequence.

    The start is uniform in 0 … L-4, the end, which is the target, uniform in start+1 … L-3 inclusive.

    Args:
        lengths: [n], whole lengths L of the sequences, at least :data:`SHORTEST_SEGMENT_SEQUENCE`.
    """
    start = rng.integers(0, lengths - 3)
    return start, rng.integers(start + 1, lengths - HELD_OUT)


def draw_negatives(seen: IntArray, item_count: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """``count`` different items outside ``seen``, in random order; fewer where the catalog has no more.

    Args:
        seen: items never to draw, by number.
        item_count: items are numbered 1 … item_count.
    """
    # a sample this large still holds `count` items once every seen one is taken out of it
    size = min(item_count, count + len(seen))
    sample = rng.choice(item_count, size=size, replace=False) + 1
    return sample[~(sample[:, None] == seen).any(axis=1)][:count]


def evaluation_candidates(target: int, negatives: IntArray, user: int, split: EvaluationSplit) -> npt.NDArray[np.int64]:
    """The candidates of a user in validation or test, target among them, in an order fixed for good."""
    rng = np.random.default_rng([EVALUATION_SEED, _SPLIT_NUMBER[split], user])
    return rng.permutation(np.append(negatives, target)).astype(np.int64)


def evaluation_topn(dataset: Dataset, user: int, split: EvaluationSplit) -> npt.NDArray[np.int64]:
    """Candidates of a user: the dataset's list where it has one, else one drawn with a fixed seed; [≤ 100]."""
    target = dataset.validation_item(user) if split == "validation" else dataset.test_item(user)
    lists = dataset.validation_negatives if split == "validation" else dataset.test_negatives
    if lists is None:
        rng = np.random.default_rng([EVALUATION_SEED, _SPLIT_NUMBER[split], user, NEGATIVES])
        negatives: IntArray = draw_negatives(dataset.sequence(user), dataset.item_count, NEGATIVES, rng)
    else:
        negatives = lists[user - 1]
    return evaluation_candidates(target, negatives, user, split)


class ItemTargets:
    """Target tokens of every item with end of sequence, as one array."""

    def __init__(self, catalog: Catalog, eos_id: int) -> None:
        ends = catalog.offsets[1:]
        self._tokens = np.insert(catalog.tokens.astype(np.int64), ends, eos_id)
        self._offsets = catalog.offsets + np.arange(len(catalog.offsets))

    def __getitem__(self, item: int) -> npt.NDArray[np.int64]:
        return self._tokens[self._offsets[item - 1] : self._offsets[item]]


def sequential_pool(dataset: Dataset, targets: ItemTargets, max_history: int, mode: str) -> Pool:
    """Next-item records of the training part.

    Args:
        mode: ``segment``: one random segment per user and epoch, as published. ``all``: every training position but
            the first is a target once per epoch, with the whole history before it.
    """
    lengths = dataset.lengths.astype(np.int64)
    users = np.flatnonzero(lengths >= SHORTEST_SEGMENT_SEQUENCE) + 1
    offsets, items = dataset.offsets, dataset.items
    positions = lengths[users - 1] - HELD_OUT - 1
    if mode == "all":
        first = np.cumsum(positions) - positions
        fixed_ends = np.arange(int(positions.sum())) - np.repeat(first, positions) + 1
        users = np.repeat(users, positions)

    def draw(indices: IntArray, rng: np.random.Generator) -> list[Record]:
        chosen = users[indices]
        if mode == "all":
            end: IntArray = fixed_ends[indices]
            start: IntArray = np.zeros_like(end)
        else:
            start, end = draw_segments(lengths[chosen - 1], rng)
        base = offsets[chosen - 1]
        start, end = base + np.maximum(start, end - max_history), base + end
        return [
            Record(Task.SEQUENTIAL, user, items[a:b], targets[int(items[b])])
            for user, a, b in zip(chosen.tolist(), start.tolist(), end.tolist(), strict=True)
        ]

    return Pool(Task.SEQUENTIAL, len(users), draw, np.minimum(fixed_ends, max_history) if mode == "all" else None)


def one_pass_pool(dataset: Dataset, max_history: int, skip: float = 0.0) -> Pool:
    """The training part of each user, every position a target; of a long one its end.

    What follows the start of a sequence is its first item, so a user without a history gets what people begin with.

    Args:
        skip: chance that a position's target is the item after the next one, where there is one.
    """
    lengths = np.minimum(dataset.lengths.astype(np.int64) - HELD_OUT, max_history + 1)

    def draw(indices: IntArray, rng: np.random.Generator) -> list[Record]:
        records = []
        for user in (indices + 1).tolist():
            whole = dataset.train_items(user).astype(np.int64)
            kept = whole[-(max_history + 1) :]
            first = kept[0] if len(kept) == len(whole) else NO_ITEM
            targets = np.append(first, kept[1:])
            skipping = np.flatnonzero(rng.random(len(targets) - 1) < skip)
            targets[skipping] = kept[skipping + 1]
            records.append(Record(Task.SEQUENTIAL, user, kept[:-1], targets))
        return records

    return Pool(Task.SEQUENTIAL, dataset.user_count, draw, lengths)


def topn_pool(dataset: Dataset, targets: ItemTargets) -> Pool:
    """One training item per user, uniform, hidden among negatives outside the user's whole sequence."""
    lengths = dataset.lengths.astype(np.int64)

    def draw(indices: IntArray, rng: np.random.Generator) -> list[Record]:
        positions = dataset.offsets[indices] + rng.integers(0, lengths[indices] - HELD_OUT)
        records = []
        for user, position in zip((indices + 1).tolist(), positions.tolist(), strict=True):
            item = int(dataset.items[position])
            candidates = np.append(draw_negatives(dataset.sequence(user), dataset.item_count, NEGATIVES, rng), item)
            rng.shuffle(candidates)
            records.append(Record(Task.TOPN, user, candidates, targets[item]))
        return records

    return Pool(Task.TOPN, dataset.user_count, draw)


def explanation_pool(explanations: Sequence[ExplanationRecord], tokenizer: Tokenizer) -> Pool:
    """Explanation records, their sentences tokenised here once, see :func:`explanation_targets`."""
    sentences = explanation_targets([record.explanation for record in explanations], tokenizer)
    targets = [np.array(tokens, dtype=np.int64) for tokens in sentences]
    items = [np.array([record.item], dtype=np.int64) for record in explanations]

    def draw(indices: IntArray, rng: np.random.Generator) -> list[Record]:
        return [Record(Task.EXPLANATION, explanations[i].user, items[i], targets[i]) for i in indices.tolist()]

    return Pool(Task.EXPLANATION, len(explanations), draw)


def training_pool(
    task: Task, dataset: Dataset, catalog: Catalog, tokenizer: Tokenizer, max_history: int, mode: str, skip: float = 0.0
) -> Pool:
    """The training records of a task; ``skip``: as in :func:`one_pass_pool`."""
    if mode not in ("segment", "all", "pass"):
        raise ConfigError(f"unknown --targets {mode!r}: choose segment, all or pass")
    if task is Task.EXPLANATION:
        return explanation_pool(dataset.explanations["train"], tokenizer)
    if mode == "pass":
        return one_pass_pool(dataset, max_history, skip)
    targets = ItemTargets(catalog, tokenizer.eos_id)
    if task is Task.TOPN:
        return topn_pool(dataset, targets)
    return sequential_pool(dataset, targets, max_history, mode)


def evaluation_pool(
    task: Task,
    dataset: Dataset,
    catalog: Catalog,
    tokenizer: Tokenizer,
    max_history: int,
    split: EvaluationSplit,
    one_pass: bool = False,
) -> Pool:
    """The held-out records of a task: always the same, one per user (explanations: one per held-out record)."""
    if split not in _SPLIT_NUMBER:
        raise ConfigError(f"unknown split {split!r}: choose validation or test")
    if task is Task.EXPLANATION:
        return explanation_pool(dataset.explanations[_EXPLANATION_SPLIT[split]], tokenizer)
    targets = ItemTargets(catalog, tokenizer.eos_id)

    def draw(indices: IntArray, rng: np.random.Generator) -> list[Record]:
        records = []
        for user in (indices + 1).tolist():
            held_out = dataset.validation_item(user) if split == "validation" else dataset.test_item(user)
            if task is Task.TOPN:
                items: IntArray = evaluation_topn(dataset, user, split)
            else:
                items = dataset.history(user, split)[-max_history:]
            target = np.append(np.zeros(len(items), dtype=np.int64), held_out) if one_pass else targets[held_out]
            records.append(Record(task, user, items, target))
        return records

    return Pool(task, dataset.user_count, draw)
