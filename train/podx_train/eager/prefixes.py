"""Which tokens may follow which prefix: the catalog's trie as transformers' ``prefix_allowed_tokens_fn`` wants it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import LogitsProcessor

from podx.bundle.trie import NO_ITEM, ROOT, Trie
from podx.errors import RequestError
from podx_train.model.ceiling import under_ceiling

ItemLists = Sequence[Sequence[int] | npt.NDArray[np.integer] | None]
"""Item numbers for each row of a batch; None: nothing said about this row."""

_Counted = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]
"""How many items end at or below nodes: the nodes, ascending, and the counts; the root's is meaningless."""

ANY_ROW = -1
"""Stands for all rows without lists of their own: they share what is worked out."""


class TrieWalker:
    """Trie lookups that remember what they met; shared by all searches."""

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self._nodes: dict[tuple[int, ...], int | None] = {(): ROOT}
        self._tokens: dict[int, Tensor] = {}

    def children(self, node: int) -> slice:
        """Numbers of a node's children."""
        return slice(int(self.trie.child_start[node]) + 1, int(self.trie.child_start[node + 1]) + 1)

    def tokens(self, node: int) -> Tensor:
        """Tokens of a node's children, int64 [children]."""
        if node not in self._tokens:
            children = self.children(node)  # edge e leads to node e + 1
            tokens = self.trie.edge_token[children.start - 1 : children.stop - 1]
            self._tokens[node] = torch.from_numpy(tokens.astype(np.int64))
        return self._tokens[node]

    def node(self, prefix: tuple[int, ...]) -> int | None:
        """Node that a prefix leads to, or None where it leads out of the trie."""
        if prefix not in self._nodes:
            parent = self.node(prefix[:-1])
            place = () if parent is None else (self.tokens(parent) == prefix[-1]).nonzero().flatten().tolist()
            self._nodes[prefix] = self.children(parent).start + place[0] if place and parent is not None else None
        return self._nodes[prefix]

    def item(self, prefix: tuple[int, ...]) -> int:
        """Item that ends at a prefix, or 0."""
        node = self.node(prefix)
        return NO_ITEM if node is None else int(self.trie.item[node])


class PrefixConstraint:
    """Callable for ``prefix_allowed_tokens_fn``: only allowed items, and no branch that leads to none.

    A beam that has nowhere to go (a finished one that the search keeps for want of others, or a row without any
    allowed item) is offered the end of sequence: transformers refuses an empty list. Such beams score -1e9 or less, or
    spell no item, and are dropped when the result is read.

    Args:
        walker: of the catalog's trie.
        eos_id: end of sequence.
        excluded: by row, items that may not come out.
        allowed: by row, the only items that may come out.

    Raises:
        RequestError: an item number is not in the catalog.
    """

    def __init__(
        self, walker: TrieWalker, eos_id: int, excluded: ItemLists | None = None, allowed: ItemLists | None = None
    ) -> None:
        self._walker = walker
        self._end = torch.tensor([eos_id])
        self._excluded, self._allowed = excluded, allowed
        self._counts: dict[int, tuple[_Counted | None, _Counted | None]] = {}
        self._tokens: dict[tuple[int, int], Tensor] = {}

    def _of(self, lists: ItemLists | None, row: int) -> npt.NDArray[np.int64] | None:
        if lists is None or lists[row] is None:
            return None
        items = np.unique(np.asarray(lists[row], dtype=np.int64))
        if len(items) and (items[0] < 1 or items[-1] > self._walker.trie.item_count):
            raise RequestError(f"item numbers must lie in 1..{self._walker.trie.item_count}")
        return items

    def _restricted(self, row: int) -> bool:
        return any(lists is not None and lists[row] is not None for lists in (self._excluded, self._allowed))

    def _items_below(self, items: npt.NDArray[np.int64] | None) -> _Counted | None:
        return None if items is None else np.unique(self._walker.trie.paths(items), return_counts=True)

    def _left(self, row: int, nodes: slice) -> npt.NDArray[np.integer]:
        """How many items may come out at or below each of these nodes, the root excepted."""
        if row not in self._counts:
            allowed, excluded = self._of(self._allowed, row), self._of(self._excluded, row)
            if allowed is not None and excluded is not None:
                allowed, excluded = np.setdiff1d(allowed, excluded), None
            self._counts[row] = self._items_below(allowed), self._items_below(excluded)
        among, without = self._counts[row]
        left = self._walker.trie.subtree_items[nodes] if among is None else _of_nodes(among, nodes)
        return left if without is None else left - _of_nodes(without, nodes)

    def _legal(self, row: int, node: int) -> Tensor:
        left = self._left(row, self._walker.children(node))
        tokens = self._walker.tokens(node)[torch.from_numpy(left > 0)]
        item = int(self._walker.trie.item[node])
        if item != NO_ITEM and self.is_legal(row, item):
            tokens = torch.cat([tokens, self._end])
        return tokens if len(tokens) else self._end

    def is_legal(self, row: int, item: int) -> bool:
        """Whether an item may come out for a row: more is left at its node than below it."""
        node = int(self._walker.trie.item_node[item])
        here, below = slice(node, node + 1), self._walker.children(node)
        return bool(self._left(row, here)[0] > self._left(row, below).sum())

    def __call__(self, row: int, sequence: Tensor) -> Tensor:
        """Tokens that may follow ``sequence``, whose first token is the decoder's start."""
        node = self._walker.node(tuple(sequence[1:].tolist()))
        if node is None:
            return self._end
        key = (row if self._restricted(row) else ANY_ROW, node)
        if key not in self._tokens:
            self._tokens[key] = self._legal(row, node)
        return self._tokens[key]


def _of_nodes(counted: _Counted, wanted: slice) -> npt.NDArray[np.int64]:
    """Counts of the nodes in a range."""
    nodes, counts = counted
    inside = slice(*np.searchsorted(nodes, (wanted.start, wanted.stop)))
    found = np.zeros(wanted.stop - wanted.start, dtype=np.int64)
    found[nodes[inside] - wanted.start] = counts[inside]
    return found


class SiblingScores(LogitsProcessor):
    """Scores of one-pass models: of each token among its siblings. What is forced costs nothing.

    Args:
        constraint: which tokens may be taken. The distribution is over all children, those that may not be included.
        beams: copies of each record among the rows.
        ceiling: of the last of several tokens, the least, see :func:`podx_train.model.ceiling.under_ceiling`.
    """

    def __init__(self, walker: TrieWalker, constraint: PrefixConstraint, beams: int, ceiling: float) -> None:
        self._walker, self._constraint, self._beams, self._ceiling = walker, constraint, beams, ceiling
        self._sums: dict[tuple[int, ...], Tensor] = {}  # of a record and what it has written: with each token more

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`transformers.LogitsProcessor`. ``scores``: log-probabilities, [rows·beams, vocabulary]."""
        nodes = [self._walker.node(tuple(row[1:])) for row in input_ids.tolist()]
        last = 1 < input_ids.shape[1] == self._walker.trie.depth
        paths = [(row // self._beams, *written[1:]) for row, written in enumerate(input_ids.tolist())]
        before = torch.stack(
            [self._sums[path[:-1]][path[-1]] if self._sums else scores.new_zeros(()) for path in paths]
        )
        among = torch.zeros_like(scores)
        for reached in {node for node in nodes if node is not None}:
            tokens = self._walker.tokens(reached).to(scores.device)
            if len(tokens):
                rows = torch.tensor([row for row, node in enumerate(nodes) if node == reached], device=scores.device)
                odds = scores[rows[:, None], tokens].log_softmax(dim=1)
                if last and self._ceiling < 1:
                    odds = under_ceiling(odds, before[rows], self._ceiling)
                among[rows[:, None], tokens] = odds
        self._sums = dict(zip(paths, before[:, None] + among, strict=True))
        chosen = torch.full_like(scores, -torch.inf)
        for row in range(len(nodes)):
            legal = self._constraint(row // self._beams, input_ids[row]).to(scores.device)
            chosen[row, legal] = among[row, legal]
        return chosen
