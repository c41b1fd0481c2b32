"""Item ids that learn: codes from who took what together, by recursive spectral clustering.

Collaborative indexing of Hua et al. 2023 (arXiv 2305.06569, section "Collaborative Indexing"): items are joined by how
often users took both, the graph is split into clusters, each cluster is split again, and an item is written as the
clusters it lies in, the widest first, then as itself. Items that users take together so share their first codes, and
what the model learns of one serves the others. Only training interactions make edges.

Unlike there, a cluster has a greatest size, so that the tree is as flat as the catalog's size allows, and the number
of codes the same for nearly all items: clusters that k-means finds in such graphs differ tenfold in size, and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from podx.errors import DataError
from podx_train.codes.collaborative_options import CollaborativeOptions, LastCode
from podx_train.codes.spectral import IntArray, balanced_clusters, cooccurrence, spectral_places
from podx_train.data.folder import Int32Array, training_mask

MAX_CODES = 6  # of one item, the last included

Codes = list[tuple[str, ...]]
Report = Callable[[int, int], None]


def collaborative_codes(
    items: Int32Array,
    offsets: Int32Array,
    item_count: int,
    options: CollaborativeOptions | None = None,
    report: Report = lambda done, total: None,
) -> Codes:
    """The codes of every item, entry i - 1 those of item i; no two items have the same.

    A code but the last names exactly one cluster: ``<c2_17>`` is the 18th of the second level and lies in one of the
    first. Items that nobody took in training beside another fill up the smallest clusters, at random. An item has no
    more codes than the catalog's size asks for, and never more than :data:`MAX_CODES`.

    Args:
        items: int32 [interactions], whole sequences one after another, items numbered from 1.
        offsets: int32 [users + 1]; user u's are ``items[offsets[u - 1]:offsets[u]]``. The last two are never looked at.
        item_count: size of the catalog.
        options: see :class:`CollaborativeOptions`.
        report: told how many items have reached their last cluster, and of how many.

    Raises:
        DataError: too few items occur in training for the others to be spread over their clusters.
    """
    options = options or CollaborativeOptions()
    mask = training_mask(offsets)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[mask]
    taken = items[mask].astype(np.int64) - 1
    graph = cooccurrence(users, taken, item_count, options.nearness)
    popularity = np.bincount(taken, minlength=item_count)
    with threadpool_limits(limits=1):  # sums in another order can put an item into another cluster
        paths = _Tree(graph, options, report).paths()
    return _written(paths, popularity, options)


class _Tree:
    """Splits the items; ``paths`` gives each item's clusters."""

    def __init__(self, graph: csr_array, options: CollaborativeOptions, report: Report) -> None:
        self._graph, self._options, self._report = graph, options, report
        self._random = np.random.default_rng(options.seed)
        self._widths = [0] * MAX_CODES  # clusters so far, by level
        self._paths: list[tuple[int, ...]] = [()] * graph.shape[0]
        self._leaves: list[tuple[tuple[int, ...], int]] = []  # path and size
        self._done = 0

    def paths(self) -> list[tuple[int, ...]]:
        """Running numbers of the clusters an item lies in, level by level, for every item."""
        count, size = len(self._paths), self._options.leaf_size
        joined = self._random.permutation(np.flatnonzero(np.diff(self._graph.indptr)))
        if len(joined) * size < count:
            raise DataError(
                f"only {len(joined)} of {count} items share a training user with another; collaborative codes need one "
                f"in {size} at least: use more data, a larger leaf size, or codes from a file"
            )
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
        places = spectral_places(self._graph[members][:, members], count, self._options.regularisation, self._random)
        if last:  # as many children as it takes, by the order of the slowest vector
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
        """Items without an edge go to the smallest leaves, in random order."""
        order = self._random.permutation(len(self._leaves)).tolist()
        sizes = [self._leaves[leaf][1] for leaf in order]
        for item in self._random.permutation(alone).tolist():
            smallest = sizes.index(min(sizes))
            sizes[smallest] += 1
            self._paths[item] = self._leaves[order[smallest]][0]


def _written(paths: list[tuple[int, ...]], popularity: IntArray, options: CollaborativeOptions) -> Codes:
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
