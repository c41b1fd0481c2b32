"""From pools of records to padded batches, task by task or mixed (POD paper, section 3.4).

A batch is planned as indices first and made only when its turn comes, from a generator seeded by (seed, epoch,
position): nothing about earlier batches has to be kept to make a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from podx.bundle.trie import NO_ITEM
from podx.errors import ConfigError, DataError
from podx.text.inputs import UNKNOWN_USER, EncodedInput, InputEncoder, pad_rows
from podx.text.templates import Task, Template
from podx_train.batches.samplers import Pool, Record
from podx_train.model.config import PodConfig
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import ModelBatch

ROTATION: tuple[Task, ...] = (Task.EXPLANATION, Task.SEQUENTIAL, Task.TOPN)
"""Order in which task-alternated training takes the tasks."""

WINDOW_BATCHES = 50
"""Batches among which records of like length are looked for."""

_PLAN_STREAM, _BATCH_STREAM = 0, 1

Part = tuple[Task, npt.NDArray[np.int64]]
PlannedBatch = tuple[Part, ...]


def plan_stream(seed: int, epoch: int) -> np.random.Generator:
    """Generator of an epoch's order."""
    return np.random.default_rng([seed, _PLAN_STREAM, epoch])


def batch_stream(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Generator of what is drawn inside one batch."""
    return np.random.default_rng([seed, _BATCH_STREAM, epoch, position])


def plan_epoch(pools: Sequence[Pool], batching: str, batch_size: int, rng: np.random.Generator) -> list[PlannedBatch]:
    """Which records each batch of an epoch holds.

    ``alternated``: one batch of each task in turn, until the task with most records has passed them all once; the
    others start over in a new order when they run out. Where lengths are known, records of like length share a batch.
    ``mixed``: all records of all tasks in one random order.

    Raises:
        DataError: a pool is empty.
        ConfigError: unknown batching.
    """
    for pool in pools:
        if pool.count == 0:
            raise DataError(f"there are no training records for task {pool.task}: leave it out of --tasks")
    if batching == "mixed":
        return _mixed(pools, batch_size, rng)
    if batching != "alternated":
        raise ConfigError(f"unknown --batching {batching!r}: choose alternated or mixed")
    by_task = {pool.task: pool for pool in pools}
    ordered = [by_task[task] for task in ROTATION if task in by_task]
    longest = max(pool.count for pool in ordered)
    streams = {pool.task: _stream(pool, longest, batch_size, rng) for pool in ordered}
    return [
        ((pool.task, streams[pool.task][first : first + batch_size]),)
        for first in range(0, longest, batch_size)
        for pool in ordered
    ]


def _stream(pool: Pool, wanted: int, batch_size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of a task's records in the order in which an epoch takes them."""
    passes = -(-wanted // pool.count)
    order = np.concatenate([rng.permutation(pool.count) for _ in range(passes)])[:wanted]
    return order if pool.lengths is None else _by_length(order, pool.lengths, batch_size, rng)


def _by_length(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A random order rearranged so that a batch holds records of like length, for padding costs as much as text.

    Within each window of :data:`WINDOW_BATCHES` batches records are sorted by length; whole batches are then shuffled.
    An incomplete last batch stays last.
    """
    window = WINDOW_BATCHES * batch_size
    parts = [order[first : first + window] for first in range(0, len(order), window)]
    ordered = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    whole = len(ordered) // batch_size * batch_size
    batches = rng.permutation(ordered[:whole].reshape(-1, batch_size), axis=0)
    return np.concatenate([batches.reshape(-1), ordered[whole:]])


def _mixed(pools: Sequence[Pool], batch_size: int, rng: np.random.Generator) -> list[PlannedBatch]:
    task_of = np.repeat(np.arange(len(pools)), [pool.count for pool in pools])
    index_of = np.concatenate([np.arange(pool.count) for pool in pools])
    order = rng.permutation(len(task_of))
    plan = []
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        parts = [(pool.task, index_of[chosen[task_of[chosen] == n]]) for n, pool in enumerate(pools)]
        plan.append(tuple(part for part in parts if len(part[1])))
    return plan


@dataclass(frozen=True)
class Built:
    """A batch ready for the model.

    Attributes:
        batch, labels: what :meth:`PodT5.forward` takes.
        weights: float32 [rows], how much each row counts, so that the shares of all processes add up to the mean over
            the whole batch once gradients are averaged over processes.
        tasks: task of each row.
        pads, tokens: pad tokens, and tokens pads included, in inputs and targets together.
    """

    batch: ModelBatch
    labels: torch.Tensor
    weights: torch.Tensor
    tasks: tuple[Task, ...]
    pads: int
    tokens: int


@dataclass(frozen=True)
class Drawn:
    """Records of a batch before they are worded.

    Attributes:
        records: the records of this process.
        choices: float64 [records], in [0, 1), from which each one's template follows.
        weight: how much each counts.
    """

    records: Sequence[Record]
    choices: npt.NDArray[np.float64]
    weight: float


class BatchBuilder:
    """Makes batches of planned records.

    Args:
        encoder: how inputs are written; where it is warm, no batch calls the tokeniser.
        templates: by task, drawn uniformly; None: always the encoder's own (validation and test).
    """

    def __init__(
        self,
        config: PodConfig,
        encoder: InputEncoder,
        pools: Sequence[Pool],
        templates: Mapping[Task, tuple[Template, ...]] | None = None,
    ) -> None:
        self._rows = {pool.task: config.task_row(pool.task) for pool in pools}
        self._encoder = encoder
        self._pools = {pool.task: pool for pool in pools}
        self._one_pass = config.one_pass
        for task in self._pools:  # read every template now, so that no batch meets the tokeniser
            for template in (None,) if templates is None else templates[task]:
                encoder.encode(task, UNKNOWN_USER, [], template)
        self._templates: Mapping[Task, Sequence[Template | None]] = templates or {pool.task: (None,) for pool in pools}

    def build(self, plan: PlannedBatch, rng: np.random.Generator, rank: int = 0, world: int = 1) -> Built:
        """The rows ``rank, rank + world, …`` of a planned batch.

        Every process draws the whole batch, which costs little, and words only its own rows: what is drawn does not
        depend on how many processes there are.
        """
        drawn = self.draw(plan, rng, rank, world)
        return self.pad(drawn, self.write(drawn))

    def draw(self, plan: PlannedBatch, rng: np.random.Generator, rank: int = 0, world: int = 1) -> Drawn:
        """This process's records of a planned batch, and how each is worded."""
        records = [record for task, indices in plan for record in self._pools[task].draw(indices, rng)]
        choices = rng.random(len(records))
        mine = range(rank, len(records), world)
        # in one pass every position counts alike, whoever's it is
        counted = sum(np.count_nonzero(r.target) for r in records) if self._is_pass(records) else len(records)
        weight = world / max(1, counted)
        if not mine:  # fewer records than processes: this one computes a row that counts nothing
            mine, weight = range(1), 0.0
        return Drawn([records[i] for i in mine], choices[mine], weight)

    def _is_pass(self, records: Sequence[Record]) -> bool:
        return self._one_pass and records[0].task is Task.SEQUENTIAL

    def write(self, drawn: Drawn) -> list[EncodedInput]:
        """The records worded, as rows of tokens."""
        rows = []
        for record, choice in zip(drawn.records, drawn.choices.tolist(), strict=True):
            templates = self._templates[record.task]
            template = templates[int(choice * len(templates))]
            rows.append(self._encoder.encode(record.task, record.user, record.items, template))
        return rows

    def pad(self, drawn: Drawn, written: Sequence[EncodedInput]) -> Built:
        """Rows and targets filled up to the longest of them, as tensors."""
        records, inputs = drawn.records, self._encoder.collate(written)
        is_pass = self._is_pass(records)
        targets = pad_rows([record.target for record in records], NO_ITEM if is_pass else IGNORED_LABEL)
        labels, next_items = (targets[:, :0], torch.from_numpy(targets)) if is_pass else (targets, None)
        task_rows = np.array([self._rows[record.task] for record in records], dtype=np.int64)
        users = np.array([record.user for record in records], dtype=np.int64)
        arrays = (inputs.input_ids, inputs.whole_word_ids, inputs.attention_mask, task_rows, users)
        return Built(
            batch=ModelBatch(*map(torch.from_numpy, arrays))._replace(next_items=next_items),
            labels=torch.from_numpy(labels),
            weights=torch.full((len(records),), drawn.weight, dtype=torch.float32),
            tasks=tuple(record.task for record in records),
            pads=int((inputs.attention_mask == 0).sum() + (labels == IGNORED_LABEL).sum()),
            tokens=inputs.input_ids.size + labels.size,
        )
