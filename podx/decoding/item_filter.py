"""Which items a request may be answered with, and so which trie nodes a beam may enter.

A node may be entered as long as at least one permitted item ends at or below it; so every live beam leads to an answer,
and k answers come back whenever k permitted items exist and the search is at least k beams wide. Sets are kept as
sorted (user, node) keys: their size goes with the request, not with the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podx.bundle.trie import ROOT, Trie
from podx.decoding.stepper import IntArray

BoolArray = npt.NDArray[np.bool_]


def _contains(keys: IntArray, wanted: IntArray) -> BoolArray:
    """Membership in a sorted array."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[place] == wanted)


class ItemFilter:
    """Permitted items of each user in a batch.

    Args:
        trie: the catalog's.
        denied: item numbers never to be returned, per user.
        allowed: the only item numbers that may be returned, per user; None = all.
    """

    def __init__(
        self, trie: Trie, denied: Sequence[npt.NDArray[np.integer]], allowed: Sequence[npt.NDArray[np.integer] | None]
    ) -> None:
        self._trie = trie
        self._restricted = np.array([items is not None for items in allowed], dtype=np.bool_)
        self._nodes, self._items = trie.node_count, trie.item_count + 1
        open_users = [d if a is None else d[:0] for d, a in zip(denied, allowed, strict=True)]
        self._denied_items = self._item_keys(open_users)
        self._full_nodes = self._exhausted_nodes()
        permitted = [d[:0] if a is None else np.setdiff1d(a, d) for d, a in zip(denied, allowed, strict=True)]
        self._allowed_items = self._item_keys(permitted)
        self._allowed_nodes = np.unique(self._node_keys(self._allowed_items))
        self.possible = self._count_possible()
        """Number of permitted items per user, int64 [batch]."""

    def _item_keys(self, items: Sequence[npt.NDArray[np.integer]]) -> IntArray:
        users = np.repeat(np.arange(len(items)), np.array([len(i) for i in items], dtype=np.int64))
        numbers = np.concatenate([*items, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        listed = self._trie.item_node[numbers] != ROOT  # the tree leads to no other item, denied or allowed
        return np.unique((users * self._items + numbers)[listed])

    def _node_keys(self, item_keys: IntArray) -> IntArray:
        """(user, node) of every node above and at the items, with repeats."""
        users, items = item_keys // self._items, item_keys % self._items
        nodes = self._trie.paths(items).astype(np.int64)
        keys = users[:, None] * self._nodes + nodes
        return np.asarray(keys[nodes != ROOT])

    def _exhausted_nodes(self) -> IntArray:
        """Nodes all of whose items are denied."""
        keys, counts = np.unique(self._node_keys(self._denied_items), return_counts=True)
        return np.asarray(keys[counts == self._trie.subtree_items[keys % self._nodes]])

    def _count_possible(self) -> IntArray:
        batch = len(self._restricted)
        allowed = np.bincount(self._allowed_items // self._items, minlength=batch)
        denied = np.bincount(self._denied_items // self._items, minlength=batch)
        return np.where(self._restricted, allowed, self._trie.listed_count - denied).astype(np.int64)

    def may_enter(self, user: IntArray, node: IntArray) -> BoolArray:
        """Whether a permitted item ends at or below ``node`` for ``user`` (elementwise)."""
        keys = user * self._nodes + node
        return np.where(
            self._restricted[user], _contains(self._allowed_nodes, keys), ~_contains(self._full_nodes, keys)
        )

    def may_return(self, user: IntArray, item: IntArray) -> BoolArray:
        """Whether ``item`` is permitted for ``user`` (elementwise)."""
        keys = user * self._items + item
        return np.where(
            self._restricted[user], _contains(self._allowed_items, keys), ~_contains(self._denied_items, keys)
        )

    def keep(self, users: IntArray) -> ItemFilter:
        """The filter of some users only, renumbered from 0."""
        new = object.__new__(ItemFilter)
        new._trie, new._nodes, new._items = self._trie, self._nodes, self._items
        new._restricted, new.possible = self._restricted[users], self.possible[users]
        for name, width in (
            ("_denied_items", self._items),
            ("_full_nodes", self._nodes),
            ("_allowed_items", self._items),
            ("_allowed_nodes", self._nodes),
        ):
            setattr(new, name, _renumber(getattr(self, name), users, width))
        return new


def _renumber(keys: IntArray, users: IntArray, width: int) -> IntArray:
    """Keys of ``users`` (ascending), their user part replaced by its place among them."""
    owner = keys // width
    kept = _contains(users, owner)
    return np.searchsorted(users, owner[kept]) * width + keys[kept] % width
