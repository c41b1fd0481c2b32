"""Requests of one batch that are answered in several ways, so that none of them decides how another is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from podx.bundle.trie import NO_ITEM
from podx.decoding.items import ItemResults
from podx.requests.batch import ItemBatch

Search = Callable[[ItemBatch], ItemResults]


def answered_apart(batch: ItemBatch, ways: Iterable[tuple[npt.NDArray[np.intp], Search]]) -> ItemResults:
    """Answer groups of a batch, each in its own way.

    Args:
        ways: places in the batch, together each once, and the search for them; groups may be empty.
    """
    items = np.full((batch.text.size, batch.k), NO_ITEM, dtype=np.int64)
    scores = items.astype(np.float32)
    exact = np.ma.MaskedArray(np.zeros(len(items), dtype=np.bool_), mask=True)
    for rows, way in ways:
        if len(rows) == len(items):
            return way(batch)
        if len(rows):
            results = way(batch.rows(rows))
            items[rows], scores[rows] = results.items, results.scores
            if results.exact is not None:
                exact[rows] = results.exact
    return ItemResults(items, scores, exact)
