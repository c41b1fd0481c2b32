"""Steps through texts on a graph that gives the best tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from podx.bundle import signature as sig
from podx.decoding.options import COMPACT_BELOW
from podx.decoding.paths import BeamRows
from podx.decoding.stepper import BestTokens, FloatArray, IntArray
from podx.graphs.session import BoundGraph, GraphSession, select_rows

ROOM_STEPS = 8
"""Steps that the cache gets room for. Empty places cost attention, and more of them a copy."""

MOVED_BYTES = 1 << 18
"""Of the cache that are copied aside, and from there to where they go, while they lie in the processor's cache."""

RESERVED_STEPS = 64
"""Steps for which memory is taken; the system gives what is written to. Longer texts take as much again."""


class GraphTextStepper:
    """A decoder graph that gives the best tokens, as a text search's stepper. The cache stays on the device.

    The graph writes into the cache, which has room for several steps. Users whose search has ended stay in it, and are
    computed with the others, until they are many.

    Args:
        decoder: the graph.
        memory: what the encoder graph gave for this batch.
        batch: users in it.
    """

    def __init__(self, decoder: GraphSession, shape: sig.ModelShape, memory: Mapping[str, Any], batch: int) -> None:
        self._decoder, self._memory, self._beams, self._steps = decoder, dict(memory), BeamRows(batch), 0
        self._users = np.arange(batch)  # places of live users among those of memory and cache
        self._past, self._present = ([s.name for s in sig.text_cache(shape, after)] for after in (False, True))
        self._size = (batch, 0, shape.heads, 0, shape.head_dim)  # of the cache: users, beams, heads, steps, head_dim
        self._cache: list[Any] = []
        self._reserves: list[FloatArray] = []  # where it lies, at the beginning; on CUDA, from where it comes
        self._graph: BoundGraph

    def step(self, tokens: IntArray, parents: IntArray | None, count: int) -> BestTokens:
        """See :class:`podx.decoding.stepper.TextStepper`."""
        user, source, row, steps = self._beams.follow(parents)
        beams, step = tokens.shape[1], self._steps
        if step == self._size[3] or beams != self._size[1] or len(tokens) <= COMPACT_BELOW * self._size[0]:
            self._move(beams)
        batch, room, first = self._size[0], self._size[3], self._users * beams
        rows = first[:, None] + self._beams.row
        every = np.zeros(batch * beams, dtype=np.int64)
        every[rows] = tokens
        feeds = {
            sig.TOKENS: every.reshape(batch, beams),
            sig.DISTANCE: np.maximum(step - np.arange(room), sig.NOT_ON_PATH),
            sig.COPIED: self._places(first[user] + source, steps),
            sig.WRITTEN: np.concatenate(
                [self._places(first[user] + row, steps), self._places(np.arange(batch * beams), step)]
            ),
            sig.CANDIDATES: np.array([count], dtype=np.int64),
        }
        self._steps += 1
        return BestTokens(*(best.reshape(-1, best.shape[2])[rows] for best in self._graph.run(feeds)))

    def keep(self, users: IntArray) -> None:
        """See :class:`podx.decoding.stepper.TextStepper`."""
        self._users = self._users[users]
        self._beams.keep(users)

    def _places(self, rows: IntArray, steps: IntArray | int) -> IntArray:
        """Of the vectors of these rows and steps in the cache: row, head, step, [vectors, 3]."""
        places = np.empty((len(rows), self._size[2], 3), dtype=np.int64)
        places[:, :, 0], places[:, :, 1], places.T[2] = rows[:, None], np.arange(self._size[2]), steps
        return places.reshape(-1, 3)

    def _move(self, beams: int) -> None:
        """Go on with a cache of the users who go on, with so many beams and room for the next step."""
        users, device, before = self._users, self._decoder.device, self._size
        caches = [cache.numpy().reshape(before) for cache in self._cache]
        if len(users) < before[0]:
            self._memory = {name: select_rows(value, users, device) for name, value in self._memory.items()}
            caches = [cache[users] for cache in caches]
        _, _, heads, room, head_dim = before
        room += ROOM_STEPS * (self._steps == room)
        rows = len(users) * beams
        self._users, self._size = np.arange(len(users)), (len(users), beams, heads, room, head_dim)
        if beams != before[1] or rows * heads * room * head_dim > len(self._reserves[0]):
            reserved = rows * heads * head_dim * RESERVED_STEPS * -(-room // RESERVED_STEPS)
            self._reserves = [np.zeros(reserved, dtype=np.float32) for _ in self._past]
        for cache, reserve in zip(caches, self._reserves[: len(caches)], strict=True):
            lay_out(cache, reserve, self._size)
        part = slice(rows * heads * room * head_dim)
        laid_out = [reserve[part].reshape(rows, heads, room, head_dim) for reserve in self._reserves]
        self._cache = [self._decoder.to_device(cache) for cache in laid_out]
        past, present = (dict(zip(names, self._cache, strict=True)) for names in (self._past, self._present))
        wanted = (sig.LOG_PROBS, sig.BEST_TOKENS)
        self._graph = BoundGraph(self._decoder, {**self._memory, **past}, present, wanted)


def lay_out(cache: FloatArray, memory: FloatArray, size: tuple[int, ...]) -> None:
    """Put a cache at the beginning of memory, where it may lie already, with more beams or steps.

    ``cache``: [users, beams, heads, steps, head_dim]. ``size``: what it is to be.
    """
    _, beams, _, steps, head_dim = cache.shape
    target = memory[: int(np.prod(size))].reshape(size)
    if not np.may_share_memory(cache, memory):
        target[:, :beams, :, :steps] = cache
        return
    old, new = cache.reshape(-1, steps * head_dim), target.reshape(-1, size[3] * head_dim)
    blocks = max(1, MOVED_BYTES // (old.itemsize * old.shape[1]))
    for start in reversed(range(0, len(old), blocks)):  # the last first: what lies before them is still to be moved
        new[start : start + blocks, : old.shape[1]] = old[start : start + blocks].copy()
