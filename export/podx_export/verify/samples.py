"""Real requests of a checkpoint's own users, to compare engines on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.graphs.numbers import NumberBatch
from podx.text.inputs import Batch
from podx.text.templates import Task
from podx_train.checkpoint.checkpoint import Checkpoint

CANDIDATES = 100
"""Candidates of a top-N request, as in the paper's protocol: the target and 99 others."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Requests of one task, by number.

    ``items``: what each input holds; ``denied``, ``allowed``: the item filter of the search.
    """

    task: Task
    users: IntArray
    items: tuple[IntArray, ...]
    denied: tuple[IntArray, ...]
    allowed: tuple[IntArray | None, ...]

    def __len__(self) -> int:
        return len(self.users)

    def part(self, first: int, count: int) -> Sample:
        """``count`` requests from ``first`` on."""
        taken = slice(first, first + count)
        return Sample(self.task, self.users[taken], self.items[taken], self.denied[taken], self.allowed[taken])

    def encode(self, checkpoint: Checkpoint) -> Batch:
        """The requests as one padded batch."""
        encoder = checkpoint.encoder()
        pairs = zip(self.users, self.items, strict=True)
        return encoder.collate([encoder.encode(self.task, int(user), items) for user, items in pairs])

    def numbers(self, one_pass: bool) -> NumberBatch:
        """The requests as ``recommend_numbers.onnx`` takes them; candidates are allowed items."""
        by_history = one_pass or self.task is Task.SEQUENTIAL
        none = np.zeros(0, dtype=np.int64)
        histories = self.items if by_history else [none] * len(self)
        return NumberBatch(self.users.tolist(), histories, self.denied, self.allowed)


def draw(checkpoint: Checkpoint, task: Task, count: int, seed: int = 0) -> Sample:
    """Requests of ``count`` random users (all, where there are fewer)."""
    random = np.random.default_rng(seed)
    everyone = len(checkpoint.user_ids)
    users = np.sort(random.choice(everyone, size=min(count, everyone), replace=False)) + 1
    none = np.zeros(0, dtype=np.int64)
    items: list[IntArray] = []
    denied: list[IntArray] = []
    allowed: list[IntArray | None] = []
    for user in users:
        known = checkpoint.sequences.of(int(user)).astype(np.int64)
        history = known[:-1][-checkpoint.config.max_history :]
        if task is Task.SEQUENTIAL:
            items.append(history)
            denied.append(history)
            allowed.append(None)
        elif task is Task.TOPN:
            candidates = _candidates(random, known, len(checkpoint.item_ids))
            items.append(history if checkpoint.config.one_pass else candidates)
            denied.append(none)
            allowed.append(candidates)
        else:
            items.append(known[-1:])
            denied.append(none)
            allowed.append(None)
    return Sample(task, users.astype(np.int64), tuple(items), tuple(denied), tuple(allowed))


def _candidates(random: np.random.Generator, known: IntArray, item_count: int) -> IntArray:
    """The user's last item among random others, shuffled."""
    others = np.setdiff1d(np.arange(1, item_count + 1), known)
    drawn = random.choice(others, size=min(CANDIDATES - 1, len(others)), replace=False)
    return random.permutation(np.append(drawn, known[-1]))
