"""Requests of one batch that are answered in several ways, so that none of them decides how another is answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from podx.bundle.trie import NO_ITEM
from podx.decoding.items import ItemResults
from podx.requests.batch import ItemBatch

Search = Callable[[ItemBatch], ItemResults]


def answered_apart(batch: ItemBatch, ways: Sequence[Search]) -> ItemResults:
    """Answer each request of a batch in its own way. ``ways``: the search for each; those of the same run together."""
    rows_of = defaultdict[Search, list[int]](list)
    for row, way in enumerate(ways):
        rows_of[way].append(row)
    if len(rows_of) == 1:
        return ways[0](batch)
    items = np.full((batch.text.size, batch.k), NO_ITEM, dtype=np.int64)
    scores = items.astype(np.float32)
    exact = np.ma.MaskedArray(np.zeros(len(items), dtype=np.bool_), mask=True)
    for way, rows in rows_of.items():
        results = way(batch.rows(rows))
        items[rows], scores[rows] = results.items, results.scores
        if results.exact is not None:
            exact[rows] = results.exact
    return ItemResults(items, scores, exact)
