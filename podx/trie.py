"""The catalogue's prefix tree as flat arrays.

Nodes are numbered breadth first, the root being 0, and the children of a node in order of their token. Edges are listed
in that same order, so **edge e leads to node e + 1** and the children of node n are the edges
``child_start[n] : child_start[n + 1]`` (compressed sparse rows; the layout of STATIC, arXiv 2602.22647).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.errors import CatalogError

Int32Array = npt.NDArray[np.int32]
ROOT = 0
NO_ITEM = 0
NO_TOKEN = -1


@dataclass(frozen=True)
class Trie:
    """Prefix tree over the token sequences of items 1 … n.

    Attributes:
        child_start: int32 [nodes + 1], first edge of each node.
        edge_token: int32 [nodes - 1], token of each edge.
        parent: int32 [nodes], parent of each node; the root is its own.
        item: int32 [nodes], number of the item that ends at a node, or 0. Items may end at inner nodes.
        subtree_items: int32 [nodes], how many items end at or below a node.
        item_node: int32 [items + 1], node at which each item ends (entry 0 unused).
        depth: longest item, in tokens, without end of sequence.
    """

    child_start: Int32Array
    edge_token: Int32Array
    parent: Int32Array
    item: Int32Array
    subtree_items: Int32Array
    item_node: Int32Array
    depth: int

    @property
    def node_count(self) -> int:
        """Number of nodes, the root included."""
        return len(self.parent)

    @property
    def item_count(self) -> int:
        """Number of items."""
        return len(self.item_node) - 1

    def tokens_in_use(self) -> Int32Array:
        """Every token that occurs in an item, ascending, int32 [tokens]."""
        return np.unique(self.edge_token)

    def paths(self, items: npt.NDArray[np.integer]) -> Int32Array:
        """Nodes from below the root to each item's end, deepest first: int32 [items, depth], root where shorter."""
        nodes = np.empty((len(items), self.depth), dtype=np.int32)
        current = self.item_node[items]
        for level in range(self.depth):
            nodes[:, level] = current
            current = self.parent[current]
        return nodes

    @classmethod
    def build(cls, tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Trie:
        """Build from the items' tokens.

        Args:
            tokens: int32 [total], all items' tokens one after another.
            offsets: int64 [items + 1]; item i's tokens are ``tokens[offsets[i-1] : offsets[i]]``.

        Raises:
            CatalogError: no items, an item without tokens, or two items with the same tokens.
        """
        lengths = np.diff(offsets)
        if len(lengths) == 0:
            raise CatalogError("the catalogue has no items: nothing could ever be recommended")
        if lengths.min() < 1:
            raise CatalogError(f"item number {int(np.argmin(lengths)) + 1} has no tokens")
        depth = int(lengths.max())
        grid = np.full((len(lengths), depth), NO_TOKEN, dtype=np.int64)
        grid[np.arange(depth)[None, :] < lengths[:, None]] = tokens
        return cls._from_grid(grid, lengths, depth)

    @classmethod
    def _from_grid(cls, grid: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], depth: int) -> Trie:
        """``grid``: [items, depth] tokens, padded with -1."""
        node_of = np.zeros(len(lengths), dtype=np.int64)
        parents, edge_tokens = [np.zeros(1, dtype=np.int64)], []
        base = int(grid.max()) + 1
        next_node = 1
        for level in range(depth):
            alive = np.flatnonzero(lengths > level)
            keys, inverse = np.unique(node_of[alive] * base + grid[alive, level], return_inverse=True)
            parents.append(keys // base)
            edge_tokens.append(keys % base)
            node_of[alive] = next_node + inverse
            next_node += len(keys)
        parent = np.concatenate(parents)
        item_node = np.concatenate([[ROOT], node_of])
        item = np.zeros(next_node, dtype=np.int32)
        item[node_of] = np.arange(1, len(lengths) + 1)
        _refuse_repeats(item, node_of)
        subtree = (item > 0).astype(np.int64)
        level_end = next_node
        for keys in reversed(edge_tokens):  # deepest level first: every child is added before its parent is read
            nodes = np.arange(level_end - len(keys), level_end)
            np.add.at(subtree, parent[nodes], subtree[nodes])
            level_end -= len(keys)
        children = np.bincount(parent[1:], minlength=next_node)
        return cls(
            child_start=np.concatenate([[0], np.cumsum(children)]).astype(np.int32),
            edge_token=np.concatenate(edge_tokens).astype(np.int32),
            parent=parent.astype(np.int32),
            item=item,
            subtree_items=subtree.astype(np.int32),
            item_node=item_node.astype(np.int32),
            depth=depth,
        )


def _refuse_repeats(item: Int32Array, node_of: npt.NDArray[np.int64]) -> None:
    """Each node ends at most one item; a second one would have overwritten the first."""
    lost = np.flatnonzero(item[node_of] != np.arange(1, len(node_of) + 1))
    if len(lost):
        first = int(lost[0]) + 1
        other = int(item[node_of[first - 1]])
        raise CatalogError(
            f"{len(lost)} items are written with the same tokens as another (items number {first} and {other} among "
            f"them): give each item a distinct id"
        )
