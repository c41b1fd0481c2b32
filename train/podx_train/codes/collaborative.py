"""Item ids that learn: codes from who took what together, by recursive spectral clustering.

Collaborative indexing of Hua et al. 2023 (arXiv 2305.06569, section "Collaborative Indexing"): items are joined by how
often users took both, the graph is split into clusters, each cluster is split again, and an item is written as the
clusters it lies in, the widest first, then as itself. Items that users take together so share their first codes, and
what the model learns of one serves the others. Only training interactions make edges.

Unlike there, a cluster has a greatest size, so that the tree is as flat as the catalog's size allows, and the number
of codes the same for nearly all items: clusters that k-means finds in such graphs differ tenfold in size, and more.
What places items near each other is left open (:data:`Places`), so texts can as well as users.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from podx.errors import DataError
from podx_train.codes.options import ClusterOptions, LastCode
from podx_train.codes.spectral import (
    Floats,
    IntArray,
    balanced_clusters,
    cooccurrence,
    spectral_places,
    taken_in_training,
)
from podx_train.data.folder import Int32Array

MAX_CODES = 6  # of one item, the last included

Codes = list[tuple[str, ...]]
Places = Callable[[IntArray, int, np.random.Generator], Floats]
"""Places of some items, [n, width], near where they are alike, so that so many clusters can be told apart; the first
column separates them the most."""
Report = Callable[[int, int], None]


def collaborative_codes(
    items: Int32Array,
    offsets: Int32Array,
    item_count: int,
    options: ClusterOptions | None = None,
    report: Report = lambda done, total: None,
) -> Codes:
    """The codes of every item, as :func:`tree_codes` makes them; see there for the rest.

    Args:
        items: int32 [interactions], whole sequences one after another, items numbered from 1.
        offsets: int32 [users + 1]; user u's are ``items[offsets[u - 1]:offsets[u]]``. The last two are never looked at.
        item_count: size of the catalog. Items that nobody took beside another fill up the smallest clusters.

    Raises:
        DataError: too few items occur in training for the others to be spread over their clusters.
    """
    options = options or ClusterOptions()
    users, taken = taken_in_training(items, offsets)
    graph = cooccurrence(users, taken, item_count, options.nearness)
    popularity = np.bincount(taken, minlength=item_count)
    joined = np.flatnonzero(np.diff(graph.indptr))
    if len(joined) * options.leaf_size < item_count:
        raise DataError(
            f"only {len(joined)} of {item_count} items share a training user with another; collaborative codes need "
            f"one in {options.leaf_size} at least: use more data, a larger leaf size, or codes from text or a file"
        )

    def places(members: IntArray, count: int, random: np.random.Generator) -> Floats:
        return spectral_places(graph[members][:, members], count, options.regularisation, random)

    return tree_codes(joined, popularity, places, options, report)


def tree_codes(
    placed: IntArray, popularity: IntArray, places: Places, options: ClusterOptions, report: Report
) -> Codes:
    """The codes of every item, entry i - 1 those of item i; no two items have the same.

    A code but the last names exactly one cluster: ``<c2_17>`` is the 18th of the second level and lies in one of the
    first. An item has no more codes than the catalog's size asks for, and never more than :data:`MAX_CODES`.

    Args:
        placed: the items, from 0, that ``places`` knows; the others fill up the smallest clusters, at random. One item
            in ``options.leaf_size`` at least.
        popularity: how often each item occurs in training, [items].
        places, options: see there.
        report: told how many items have reached their last cluster, and of how many.
    """
    with threadpool_limits(limits=1):  # sums in another order can put an item into another cluster
        paths = _Tree(len(popularity), places, options, report).paths(placed)
    return _written(paths, popularity, options)


class _Tree:
    """Splits the items; ``paths`` gives each item's clusters."""

    def __init__(self, count: int, places: Places, options: ClusterOptions, report: Report) -> None:
        self._places, self._options, self._report = places, options, report
        self._random = np.random.default_rng(options.seed)
        self._widths = [0] * MAX_CODES  # clusters so far, by level
        self._paths: list[tuple[int, ...]] = [()] * count
        self._leaves: list[tuple[tuple[int, ...], int]] = []  # path and size
        self._done = 0

    def paths(self, placed: IntArray) -> list[tuple[int, ...]]:
        """Running numbers of the clusters an item lies in, level by level, for every item."""
        count, size = len(self._paths), self._options.leaf_size
        joined = self._random.permutation(placed)
        self._capacity = size * len(joined) // count  # leaves room to spread the others evenly
        self._grow(joined, ())
        self._spread(np.setdiff1d(np.arange(count), joined))
        self._report(count, count)
        return self._paths

    def _grow(self, members: IntArray, path: tuple[int, ...]) -> None:
        """Give the members their clusters below ``path``."""
        if len(members) <= self._capacity:
            for member in members.tolist():
                self._paths[member] = path
            self._leaves.append((path, len(members)))
            self._done += len(members)
            self._report(self._done, len(self._paths))
            return
        level = len(path)
        for child in self._split(members, last=level == MAX_CODES - 2):
            name = self._widths[level]
            self._widths[level] += 1
            self._grow(child, (*path, name))

    def _split(self, members: IntArray, last: bool) -> list[IntArray]:
        """Children, none empty and each smaller than the whole."""
        if last:
            count, limit = -(-len(members) // self._capacity), self._capacity
        else:
            count, limit = self._shape(len(members))
        places = self._places(members, count, self._random)
        if last:  # as many children as it takes, in order along the first column
            return np.array_split(members[np.argsort(places[:, 0], kind="stable")], count)
        labels = balanced_clusters(places, count, limit, int(self._random.integers(2**31)))
        return [members[labels == label] for label in range(count) if (labels == label).any()]

    def _shape(self, size: int) -> tuple[int, int]:
        """How many children a cluster of this size gets and how large they may be: as few levels as do, all as wide."""
        clusters, fill = self._options.clusters, self._options.fill
        leaf = math.ceil(self._capacity * fill)
        levels, below = 1, leaf  # ``below``: largest child that fits in one level less
        while below * clusters < size:
            levels, below = levels + 1, below * clusters
        count = min(clusters, max(-(-size // below), math.ceil((size / leaf) ** (1 / levels))))
        limit = self._capacity if levels == 1 else min(below, math.ceil(size / (count * fill)), size - 1)
        return count, limit

    def _spread(self, alone: IntArray) -> None:
        """The other items go to the smallest leaves, in random order."""
        order = self._random.permutation(len(self._leaves)).tolist()
        sizes = [self._leaves[leaf][1] for leaf in order]
        for item in self._random.permutation(alone).tolist():
            smallest = sizes.index(min(sizes))
            sizes[smallest] += 1
            self._paths[item] = self._leaves[order[smallest]][0]


def _written(paths: list[tuple[int, ...]], popularity: IntArray, options: ClusterOptions) -> Codes:
    """Paths as text, with the last code."""
    places: dict[tuple[int, ...], int] = {}
    last = [f"<i_{item}>" for item in range(1, len(paths) + 1)]
    if options.last == LastCode.SHARED:
        # Ties are broken at random: item numbers may tell of held-out interactions.
        ties = np.random.default_rng(options.seed).permutation(len(paths))
        for item in np.lexsort((ties, -popularity)).tolist():
            place = places[paths[item]] = places.get(paths[item], -1) + 1
            last[item] = f"<p_{place}>"
    return [
        (*(f"<c{level}_{name}>" for level, name in enumerate(path, start=1)), end)
        for path, end in zip(paths, last, strict=True)
    ]
