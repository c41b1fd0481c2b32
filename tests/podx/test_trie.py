"""The flat prefix tree, against one of nested dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podx.bundle.trie import NO_ITEM, ROOT, Trie
from podx.errors import CatalogError
from tests.podx.references import Tokens, trie_arrays

catalogs = st.lists(
    st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=25, unique=True
)
ITEM = "item"


def nested(items: list[Tokens]) -> dict[Any, Any]:
    root: dict[Any, Any] = {}
    for number, tokens in enumerate(items, start=1):
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
        node[ITEM] = number
    return root


def count_items(node: dict[Any, Any]) -> int:
    return (ITEM in node) + sum(count_items(child) for token, child in node.items() if token != ITEM)


def count_nodes(node: dict[Any, Any]) -> int:
    return 1 + sum(count_nodes(child) for token, child in node.items() if token != ITEM)


def compare(trie: Trie, number: int, node: dict[Any, Any]) -> None:
    first, last = trie.child_start[number], trie.child_start[number + 1]
    assert trie.edge_token[first:last].tolist() == sorted(token for token in node if token != ITEM)
    assert trie.item[number] == node.get(ITEM, NO_ITEM)
    assert trie.subtree_items[number] == count_items(node)
    for edge in range(first, last):
        assert trie.parent[edge + 1] == number
        compare(trie, edge + 1, node[int(trie.edge_token[edge])])


@given(catalogs)
def test_structure(items: list[Tokens]) -> None:
    trie, reference = Trie.build(*trie_arrays(items)), nested(items)
    compare(trie, ROOT, reference)
    assert trie.node_count == count_nodes(reference)
    assert trie.item_count == len(items)
    assert trie.depth == max(map(len, items))
    assert trie.tokens_in_use().tolist() == sorted({token for item in items for token in item})


@given(catalogs)
def test_paths_spell_the_items(items: list[Tokens]) -> None:
    trie = Trie.build(*trie_arrays(items))
    paths = trie.paths(np.arange(1, len(items) + 1))
    assert paths.shape == (len(items), trie.depth)
    for row, tokens in zip(paths.tolist(), items, strict=True):
        nodes = [node for node in row if node != ROOT]
        assert row == nodes + [ROOT] * (trie.depth - len(nodes))
        assert tuple(trie.edge_token[node - 1] for node in reversed(nodes)) == tokens


def test_items_written_alike_are_named() -> None:
    with pytest.raises(CatalogError, match=r"2 items .*\(items number 1 and 4 among them\)"):
        Trie.build(*trie_arrays([(1, 2), (3,), (1, 2), (1, 2)]))


def test_an_empty_catalog_is_refused() -> None:
    with pytest.raises(CatalogError, match="no items"):
        Trie.build(*trie_arrays([]))


def test_an_item_without_tokens_is_named() -> None:
    with pytest.raises(CatalogError, match="item number 2 has no tokens"):
        Trie.build(*trie_arrays([(1,), (), (2,)]))


def test_items_of_many_tokens_and_a_large_vocabulary_sort_right() -> None:
    rng = np.random.default_rng(0)
    items = [tuple(rng.integers(0, 100_000, size=size).tolist()) for size in rng.integers(1, 12, size=200)]
    items += [(*item, 7) for item in items[:50]]  # items that end inside others
    trie = Trie.build(*trie_arrays(items))
    compare(trie, ROOT, nested(items))
    assert trie.depth == max(map(len, items))


def test_a_catalog_none_of_which_is_listed_is_refused() -> None:
    with pytest.raises(CatalogError, match="no item of the catalog is listed"):
        Trie.build(*trie_arrays([(1,), (2,)]), np.zeros(2, dtype=np.bool_))


def test_an_item_that_is_not_listed_may_repeat_another() -> None:
    trie = Trie.build(*trie_arrays([(1,), (2,), (1,)]), np.array([True, True, False]))
    assert trie.item_node.tolist() == [0, 1, 2, 0] and trie.listed_count == 2
