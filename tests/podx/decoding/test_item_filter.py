"""Permitted items and nodes, against plain sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from podx.bundle.trie import ROOT, Trie
from podx.decoding.item_filter import ItemFilter
from tests.podx.references import Tokens, trie_arrays

Sets = list[tuple[frozenset[int], frozenset[int] | None]]


@st.composite
def limited_tries(draw: st.DrawFn) -> tuple[list[Tokens], Sets]:
    tokens = st.lists(st.integers(2, 5), min_size=1, max_size=4).map(tuple)
    items = draw(st.lists(tokens, min_size=1, max_size=12, unique=True))
    some = st.frozensets(st.integers(1, len(items)))
    return items, draw(st.lists(st.tuples(some, st.none() | some), min_size=1, max_size=5))


def limits_of(trie: Trie, sets: Sets, repeat: int = 1) -> ItemFilter:
    denied = [np.array(sorted(d) * repeat, dtype=np.int64) for d, _ in sets]
    allowed = [None if a is None else np.array(sorted(a) * repeat, dtype=np.int64) for _, a in sets]
    return ItemFilter(trie, denied, allowed)


def check(limits: ItemFilter, trie: Trie, sets: Sets) -> None:
    items, nodes = np.arange(1, trie.item_count + 1), np.arange(1, trie.node_count)
    paths = trie.paths(items)
    for user, (denied, allowed) in enumerate(sets):
        permitted = {int(i) for i in items if i not in denied and (allowed is None or i in allowed)}
        open_nodes = {int(n) for i in permitted for n in paths[i - 1] if n != ROOT}
        may_return = limits.may_return(np.full(len(items), user), items)
        may_enter = limits.may_enter(np.full(len(nodes), user), nodes)
        assert set(items[may_return].tolist()) == permitted
        assert set(nodes[may_enter].tolist()) == open_nodes
        assert limits.possible[user] == len(permitted)


@settings(max_examples=80)
@given(limited_tries(), st.integers(1, 2))
def test_limits_agree_with_sets(case: tuple[list[Tokens], Sets], repeat: int) -> None:
    items, sets = case
    trie = Trie.build(*trie_arrays(items))
    check(limits_of(trie, sets, repeat), trie, sets)


@settings(max_examples=80)
@given(limited_tries(), st.data())
def test_kept_users_keep_their_limits(case: tuple[list[Tokens], Sets], data: st.DataObject) -> None:
    items, sets = case
    trie = Trie.build(*trie_arrays(items))
    limits = limits_of(trie, sets)
    for _ in range(2):  # a search keeps users of kept users
        kept = sorted(data.draw(st.sets(st.integers(0, len(sets) - 1), min_size=1)))
        limits, sets = limits.keep(np.array(kept)), [sets[user] for user in kept]
        check(limits, trie, sets)


def test_no_users_are_no_problem() -> None:
    trie = Trie.build(*trie_arrays([(2,)]))
    assert ItemFilter(trie, [], []).possible.tolist() == []
