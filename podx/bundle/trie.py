"""The catalog's prefix tree as flat arrays.

Nodes are numbered breadth first, the root being 0, and the children of a node in order of their token. Edges are listed
in that same order, so **edge e leads to node e + 1** and the children of node n are the edges
``child_start[n] : child_start[n + 1]`` (compressed sparse rows; the layout of STATIC, arXiv 2602.22647).

Building sorts the items once by their tokens; every node is then a run of neighbours that share a prefix. Nothing is
held per item but a few integers, so that 10⁷ items are no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from podx.errors import CatalogError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ROOT = 0
NO_ITEM = 0
_ENDED = 0
"""Digit of an item that has no token at a level; tokens have digits from 1 on."""
_WORD_BITS = 63
"""Bits of a word that digits are packed into; the sign is left alone."""


@dataclass(frozen=True)
class Trie:
    """Prefix tree over the token sequences of the listed ones among items 1 … n.

    Attributes:
        child_start: int32 [nodes + 1], first edge of each node.
        edge_column: int32 [nodes - 1], place of each edge's token in ``output_tokens``.
        output_tokens: int64 [tokens], ascending; it may hold tokens that no edge has.
        parent: int32 [nodes], parent of each node; the root is its own.
        item: int32 [nodes], number of the item that ends at a node, or 0. Items may end at inner nodes.
        subtree_items: int32 [nodes], how many items end at or below a node.
        item_node: int32 [items + 1], node at which each item ends; the root where an item is not listed (and entry 0).
        depth: longest item, in tokens, without end of sequence.
    """

    child_start: Int32Array
    edge_column: Int32Array
    output_tokens: Int64Array
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
        """Number of items, those that are not listed included."""
        return len(self.item_node) - 1

    @property
    def listed_count(self) -> int:
        """Number of items that the tree leads to."""
        return int(self.subtree_items[ROOT])

    @cached_property
    def edge_token(self) -> Int32Array:
        """Token of each edge, int32 [nodes - 1]."""
        return self.output_tokens.astype(np.int32)[self.edge_column]

    def tokens_in_use(self) -> Int32Array:
        """Every token that occurs in a listed item, ascending, int32 [tokens]."""
        used = np.zeros(len(self.output_tokens), dtype=np.bool_)
        used[self.edge_column] = True
        return self.output_tokens[used].astype(np.int32)

    def require_ends_at_leaves(self) -> None:
        """Raise unless no item begins another, as where no end of sequence is scored.

        Raises:
            CatalogError: an item begins another.
        """
        inside = np.flatnonzero((self.item != NO_ITEM) & (np.diff(self.child_start) > 0))
        if len(inside):
            number = int(self.item[inside[0]])
            raise CatalogError(
                f"the text of item number {number} begins another item's: give items codes of one length"
            )

    def level_starts(self) -> list[int]:
        """First node of each level 0 … depth, and the number of nodes."""
        starts = [ROOT, ROOT + 1]
        for _ in range(self.depth):
            starts.append(int(self.child_start[starts[-1]]) + 1)  # edge e leads to node e + 1, level after level
        return starts

    def paths(self, items: npt.NDArray[np.integer]) -> Int32Array:
        """Nodes from below the root to each item's end, deepest first: int32 [items, depth], root where shorter."""
        nodes = np.empty((len(items), self.depth), dtype=np.int32)
        current = self.item_node[items]
        for level in range(self.depth):
            nodes[:, level] = current
            current = self.parent[current]
        return nodes

    @classmethod
    def build(
        cls, tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], listed: BoolArray | None = None
    ) -> Trie:
        """Build from the items' tokens.

        Args:
            tokens: int32 [total], all items' tokens one after another.
            offsets: int64 [items + 1]; item i's tokens are ``tokens[offsets[i-1] : offsets[i]]``.
            listed: bool [items], which items the tree leads to; None = all.

        Raises:
            CatalogError: no items, none that is listed, an item without tokens, or two listed items with the same
                tokens.
        """
        lengths = np.diff(offsets)
        if len(lengths) == 0:
            raise CatalogError("the catalog has no items: nothing could ever be recommended")
        if lengths.min() < 1:
            raise CatalogError(f"item number {int(np.argmin(lengths)) + 1} has no tokens")
        if listed is not None and not listed.any():
            raise CatalogError("no item of the catalog is listed: leave at least one that can be recommended")
        rows = np.arange(len(lengths)) if listed is None else np.flatnonzero(listed)
        seen = np.zeros(int(tokens.max()) + 1, dtype=np.bool_)
        seen[tokens] = True
        items = _SortedItems.of(tokens, np.cumsum(seen, dtype=np.int32), offsets[rows], lengths[rows], rows)
        return _build(items, np.flatnonzero(seen).astype(np.int64), len(lengths))


@dataclass(frozen=True)
class _SortedItems:
    """Items in the order of their tokens, an end coming before any token.

    Attributes:
        number: int32 [items], their numbers.
        words: digits packed ``per_word`` to a word of ``bits`` each, the first level highest; int64 [items] each.
        depth: levels.
    """

    number: Int32Array
    words: list[Int64Array]
    bits: int
    depth: int

    @classmethod
    def of(
        cls, tokens: Int32Array, digit_of: Int32Array, starts: Int64Array, lengths: Int64Array, rows: Int64Array
    ) -> _SortedItems:
        """``digit_of``: by token; ``starts``, ``lengths``: where the items' tokens lie; ``rows``: numbers less 1."""
        depth, bits = int(lengths.max()), int(digit_of[-1]).bit_length()
        per_word = _WORD_BITS // bits
        words = []
        for first in range(0, depth, per_word):
            word = np.zeros(len(rows), dtype=np.int64)
            for level in range(first, first + per_word):
                alive = lengths > level
                digits = digit_of[tokens[np.where(alive, starts + level, 0)]]
                word = (word << bits) | np.where(alive, digits, _ENDED)
            words.append(word)
        order = np.argsort(words[0]) if len(words) == 1 else np.lexsort(words[::-1])
        return cls((rows[order] + 1).astype(np.int32), [word[order] for word in words], bits, depth)

    def digits(self, level: int) -> Int64Array:
        """Digit of each item at a level, int64 [items]."""
        per_word = _WORD_BITS // self.bits
        word, place = divmod(level, per_word)
        shift = self.bits * (per_word - 1 - place)
        return (self.words[word] >> shift) & ((1 << self.bits) - 1)


def _build(items: _SortedItems, output_tokens: Int64Array, item_count: int) -> Trie:
    count = len(items.number)
    parents, columns = [np.zeros(1, dtype=np.int32)], []
    subtree = [np.array([count], dtype=np.int32)]
    node = np.zeros(count, dtype=np.int32)  # that each item's prefix leads to, level after level
    begins = np.arange(count) == 0  # where a prefix differs from that of the item before
    next_node = ROOT + 1
    for level in range(items.depth):
        digit = items.digits(level)
        begins[1:] |= digit[1:] != digit[:-1]
        heads = np.flatnonzero(begins)
        goes_on = digit[heads] != _ENDED
        first = heads[goes_on]
        parents.append(node[first])
        columns.append((digit[first] - 1).astype(np.int32))
        subtree.append(np.diff(heads, append=count)[goes_on].astype(np.int32))
        alive = digit != _ENDED
        node = np.where(alive, next_node - 1 + np.cumsum(begins & alive, dtype=np.int32), node).astype(np.int32)
        next_node += len(first)
    _refuse_repeats(items.number, begins)
    item_node = np.full(item_count + 1, ROOT, dtype=np.int32)
    item_node[items.number] = node
    item = np.full(next_node, NO_ITEM, dtype=np.int32)
    item[node] = items.number
    parent = np.concatenate(parents)
    child_start = np.zeros(next_node + 1, dtype=np.int32)
    np.cumsum(np.bincount(parent[1:], minlength=next_node), out=child_start[1:])
    return Trie(
        child_start=child_start,
        edge_column=np.concatenate(columns),
        output_tokens=output_tokens,
        parent=parent,
        item=item,
        subtree_items=np.concatenate(subtree),
        item_node=item_node,
        depth=items.depth,
    )


def _refuse_repeats(number: Int32Array, begins: BoolArray) -> None:
    """Refuse two items with the same tokens. ``begins``: where an item differs from the one before it."""
    if begins.all():
        return
    heads = np.flatnonzero(begins)
    last = np.repeat(np.maximum.reduceat(number, heads), np.diff(heads, append=len(number)))
    repeated = number != last
    first = int(np.argmin(np.where(repeated, number, np.iinfo(np.int32).max)))
    raise CatalogError(
        f"{int(repeated.sum())} items are written with the same tokens as another (items number {int(number[first])} "
        f"and {int(last[first])} among them): give each item a distinct id"
    )
