"""CUDA graphs: the whole search recorded once per shape and replayed without a launch from the host.

A CUDA graph replays fixed shapes at fixed addresses. So requests are padded to a *bucket* (users, tokens, length of the
lists, rows of users' prompt vectors), each bucket has a session of its own whose free dimensions are set to the
bucket's, so that nothing is left to be computed from shapes, and its inputs and outputs lie in buffers that stay where
they are. A bucket is made when it is first needed, and the one that was needed longest ago goes when there are too
many. One batch at a time runs in a bucket; others wait.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx.decoding.options import CUDA_GRAPH_K
from podx.graphs.opened_once import OpenedOnce
from podx.graphs.session import FixedSession, HeldFiles, SessionOptions
from podx.requests.batch import ItemBatch
from podx.requests.encoder import allowed_row

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SOURCE_LENGTHS = (32, 48, 64, 96, 128, 256, 416, 512)
EXCLUDED_LENGTHS = (32, 128)
ALLOWED_LENGTHS = (1, 128)
"""One place for the mark that nothing is limited, or a top-N request's candidates."""

USER_ROWS = (1, 20)
"""One for a user with prompt vectors, or all the similar users of one without."""

MOST_SESSIONS = 32
"""Buckets that live at a time. Each holds the weights on the GPU once more."""

_FILL = dict.fromkeys((sig.EXCLUDED_ITEMS, sig.ALLOWED_ITEMS, sig.USER_ROWS), sig.NO_NUMBER)
"""What inputs are padded with, where it is not 0."""

Arrays = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Bucket:
    """Sizes of the free dimensions of the graph for CUDA graphs; ``user_rows``: 0 where it has no such input."""

    batch: int
    source: int
    excluded: int
    allowed: int
    user_rows: int = 0

    @classmethod
    def holding(cls, feeds: Arrays) -> Bucket | None:
        """The smallest bucket that the inputs fit in; None where they are too large for any."""
        batch, source = feeds[sig.INPUT_IDS].shape
        lists = feeds[sig.EXCLUDED_ITEMS].shape[1], feeds[sig.ALLOWED_ITEMS].shape[1]
        sizes = (BATCH_SIZES, SOURCE_LENGTHS, EXCLUDED_LENGTHS, ALLOWED_LENGTHS)
        chosen = [_at_least(size, among) for size, among in zip((batch, source, *lists), sizes, strict=True)]
        rows = feeds.get(sig.USER_ROWS)
        chosen.append(0 if rows is None else _at_least(rows.shape[1], USER_ROWS))
        return None if None in chosen else cls(*(size for size in chosen if size is not None))

    def pad(self, name: str, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """An input in the bucket's shape. Padded users are users without text."""
        lists = {sig.EXCLUDED_ITEMS: self.excluded, sig.ALLOWED_ITEMS: self.allowed, sig.USER_ROWS: self.user_rows}
        width = lists.get(name, self.source)
        shape = (self.batch,) if array.ndim == 1 else (self.batch, width)
        padded = np.full(shape, _FILL.get(name, 0), dtype=np.int64)
        padded[tuple(slice(0, size) for size in array.shape)] = array
        return padded

    def dimensions(self) -> dict[str, int]:
        """By the names that the graph gives them."""
        lists = {"excluded": self.excluded, "allowed": self.allowed, "answers": CUDA_GRAPH_K}
        rows = {"user_neighbours": self.user_rows} if self.user_rows else {}
        return {"batch": self.batch, "source": self.source, **lists, **rows}


def _at_least(size: int, among: tuple[int, ...]) -> int | None:
    place = bisect_left(among, size)
    return among[place] if place < len(among) else None


def fits_buckets(batch: ItemBatch) -> npt.NDArray[np.bool_]:
    """Which requests some bucket holds, whoever shares the batch, bool [batch]."""
    lists = zip(batch.denied, batch.allowed, strict=True)
    short = [
        len(denied) <= EXCLUDED_LENGTHS[-1] and len(allowed_row(allowed)) <= ALLOWED_LENGTHS[-1]
        for denied, allowed in lists
    ]
    lengths: npt.NDArray[np.int64] = batch.text.attention_mask.sum(axis=1)
    return np.array(short, dtype=np.bool_) & (lengths <= SOURCE_LENGTHS[-1])


class CudaGraphRecommender:
    """Runs the graph for CUDA graphs. Safe to call from several threads."""

    def __init__(self, path: Path, options: SessionOptions, held: HeldFiles | None = None) -> None:
        """Open nothing yet. ``held``: see :class:`podx.graphs.session.GraphSession`."""

        def open_(bucket: Bucket) -> tuple[FixedSession, threading.Lock]:
            return FixedSession(path, options, bucket.dimensions(), held), threading.Lock()

        self._sessions = OpenedOnce(open_, MOST_SESSIONS)

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]] | None:
        """Answers of a batch (:func:`podx.bundle.signature.answer_tensors`); None where no bucket holds it.

        Args:
            feeds: the encoder's inputs and the item filter, as for ``recommend.onnx``.
        """
        bucket = Bucket.holding(feeds)
        if bucket is None:
            return None
        users = len(feeds[sig.INPUT_IDS])
        session, lock = self._sessions[bucket]
        with lock:
            outputs = session.run({name: bucket.pad(name, array) for name, array in feeds.items()})
            return {name: array[:users].copy() for name, array in outputs.items()}
