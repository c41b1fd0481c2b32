"""The trie as the recommender graph reads it: held against the trie and against the items themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podx.bundle.tables import TableFile, write_tables
from podx.bundle.trie import Trie
from podx.bundle.trie_tables import LEVELS, read_end_token, read_trie, search_tables, widest
from podx.errors import CatalogError
from tests.podx.references import Tokens, trie_arrays

EOS = 3
catalogs = st.lists(
    st.lists(st.integers(0, 6), min_size=1, max_size=LEVELS).map(tuple), min_size=1, max_size=25, unique=True
)


def leads_to(tables: dict[str, np.ndarray], item: Tokens) -> int:
    """Node that an item's tokens lead to, walked down the tables."""
    node = 0
    for token in item:
        first, last = tables["child_start"][node : node + 2]
        tokens = tables["output_tokens"][tables["edge_column"][first:last]].tolist()
        node = first + tokens.index(token) + 1
    return int(node)


@given(catalogs)
def test_the_tables_lead_to_every_item(items: list[Tokens]) -> None:
    tables = search_tables(Trie.build(*trie_arrays(items)), EOS)
    for number, item in enumerate(items, start=1):
        assert tables["node_item"][leads_to(tables, item)] == number
        assert tables["item_node"][number] == leads_to(tables, item)
    assert tables["output_tokens"].tolist() == sorted({token for item in items for token in item} | {EOS})
    assert tables["output_tokens"][tables["end_column"][0]] == EOS
    assert tables["longest"].tolist() == [max(map(len, items)) + 1]
    types = {name: array.dtype for name, array in tables.items()}
    assert {name for name, dtype in types.items() if dtype == np.int64} == {"output_tokens", "end_column"}
    assert {name for name, dtype in types.items() if dtype == np.float32} == {"longest"}
    assert all(
        dtype == np.int32 for name, dtype in types.items() if name.startswith(("child", "edge", "node", "widest"))
    )


@given(catalogs)
def test_the_widest_node_of_each_level(items: list[Tokens]) -> None:
    tables = search_tables(Trie.build(*trie_arrays(items)), EOS)
    for level in range(LEVELS):
        prefixes = {item[:level] for item in items if len(item) > level}
        most = max((len({i[level] for i in items if i[:level] == p and len(i) > level}) for p in prefixes), default=0)
        assert tables[widest(level)].tolist() == list(range(most))


@given(catalogs, st.data())
def test_items_that_are_not_listed_are_not_there(items: list[Tokens], data: st.DataObject) -> None:
    listed = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)).filter(any))
    kept = [item for item, here in zip(items, listed, strict=True) if here]
    some = search_tables(Trie.build(*trie_arrays(items), np.array(listed)), EOS)
    only = search_tables(Trie.build(*trie_arrays(kept)), EOS)
    numbers = np.flatnonzero(listed) + 1
    for name in set(only) - {"item_node", "node_item"}:
        assert np.array_equal(some[name], only[name]), name
    assert np.array_equal(some["item_node"][numbers], only["item_node"][1:])
    assert np.count_nonzero(some["item_node"]) == len(kept)
    assert np.array_equal(some["node_item"], np.append(0, numbers)[only["node_item"]])


@given(catalogs)
def test_the_tables_read_back_as_the_trie(tmp_path_factory: pytest.TempPathFactory, items: list[Tokens]) -> None:
    path = tmp_path_factory.mktemp("trie") / "catalog.bin"
    trie = Trie.build(*trie_arrays(items))
    tables = search_tables(trie, EOS)
    write_tables(path, tables)
    read = read_trie(TableFile(path))
    for name in ("child_start", "edge_token", "parent", "item", "subtree_items", "item_node", "depth"):
        assert np.array_equal(getattr(read, name), getattr(trie, name)), name
    assert np.array_equal(read.tokens_in_use(), trie.tokens_in_use())
    assert read_end_token(TableFile(path)) == EOS
    again = search_tables(read, EOS)
    assert all(np.array_equal(again[name], array) for name, array in tables.items())


def test_items_too_long_for_the_graph_are_refused() -> None:
    with pytest.raises(CatalogError, match=r"9 tokens, the recommender graph walks 8 at most: .*--tokenizer train"):
        search_tables(Trie.build(*trie_arrays([tuple(range(LEVELS + 1))])), EOS)
