"""Raw ids, numbers, tokens, and the tables that hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podx.bundle.catalog import KEPT_IDS, TEXTS, Catalog, IdTable
from podx.bundle.tables import TableFile, write_tables
from podx.bundle.trie import NO_ITEM, ROOT
from podx.bundle.trie_tables import LEVELS, widest
from podx.bundle.users import UserTable
from podx.errors import CatalogError
from podx.text.tokenizer import Tokenizer

raw_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@given(st.lists(raw_ids, unique=True, max_size=20), st.lists(st.text(max_size=12), max_size=10))
def test_ids_find_their_numbers_and_nothing_else_does(ids: list[str], others: list[str]) -> None:
    table = IdTable.of(ids, "item")
    assert len(table) == len(ids)
    assert [table.number(raw) for raw in ids] == list(range(1, len(ids) + 1))
    assert table.numbers([*ids, *others]) == [table.number(raw) for raw in (*ids, *others)]
    assert [table.raw(number) for number in range(1, len(ids) + 1)] == ids
    for raw in others:
        assert (table.number(raw) is None) == (raw not in ids)


@pytest.mark.parametrize("raw", ["", "\0", "a\0", "abc", "ab\0", "b", "a\ud800"])
def test_near_misses_are_unknown(raw: str) -> None:
    assert IdTable.of(["a", "ab"], "item").number(raw) is None


def test_only_ids_that_fit_are_remembered() -> None:
    table = IdTable.of(["ab", "c"], "item")
    for _ in range(2):
        assert [table.number(raw) for raw in ("c", "b", "abc", "x" * 10_000)] == [2, None, None, None]
        assert table.numbers(("c", "abc", "x" * 10_000, ["c"])) == [2, None, None, None]  # type: ignore[list-item]
    assert tuple(vars(table)["_number"].cache_info()) == (4, 2, KEPT_IDS, 2)
    assert table.number(["c"]) is None  # type: ignore[arg-type]
    assert [table.raw(number) for number in (2, 1, 2)] == ["c", "ab", "c"]
    assert tuple(vars(table)["raw"].cache_info()) == (1, 2, KEPT_IDS, 2)


@pytest.mark.parametrize("raw", ["", "a\0", "\0", "\ud800"])
def test_ids_that_cannot_be_stored_are_named(raw: str) -> None:
    with pytest.raises(CatalogError, match="user number 2"):
        IdTable.of(["x", raw], "user")


def test_repeated_ids_are_named() -> None:
    with pytest.raises(CatalogError, match="item id 'é' occurs more than once"):
        IdTable.of(["é", "b", "é"], "item")


def test_a_catalog_survives_the_disk(tmp_path: Path, tokenizer: Tokenizer) -> None:
    catalog = Catalog.create(["coat", "Zoë's", "x"], tokenizer)
    catalog.save(tmp_path / "catalog.bin")
    loaded = Catalog.load(tmp_path / "catalog.bin")
    assert len(loaded) == 3
    assert [loaded.items.raw(n) for n in (1, 2, 3)] == ["coat", "Zoë's", "x"]
    for number in (1, 2, 3):
        assert loaded.text(number) == str(number)
        assert loaded.target(number).tolist() == list(tokenizer.encode(str(number)))
    assert loaded.trie.item_count == 3 and loaded.trie is loaded.trie


def test_items_with_texts_of_their_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    catalog = Catalog.create(["a", "b"], tokenizer, texts=["12_3", "12_45"])
    catalog.save(tmp_path / "catalog.bin")
    loaded = Catalog.load(tmp_path / "catalog.bin")
    assert [loaded.text(number) for number in (1, 2)] == ["12_3", "12_45"]
    assert loaded.target(2).tolist() == list(tokenizer.encode("12_45"))


def test_texts_must_match_the_items(tokenizer: Tokenizer) -> None:
    with pytest.raises(CatalogError, match="1 item texts for 2 items"):
        Catalog.create(["a", "b"], tokenizer, texts=["12"])


def test_items_with_one_text_are_found_when_the_trie_is_built(tokenizer: Tokenizer) -> None:
    with pytest.raises(CatalogError, match="items number 1 and 2"):
        _ = Catalog.create(["a", "b"], tokenizer, texts=["12", "12"]).trie


def test_an_empty_catalog_is_refused_when_it_is_used(tokenizer: Tokenizer) -> None:
    with pytest.raises(CatalogError, match="no items"):
        _ = Catalog.create([], tokenizer).trie


USERS = UserTable(
    IdTable.of(["ann", "Bé", "carl"], "user"), np.array([4, 2, 9], dtype=np.int32), np.array([0, 2, 2, 3])
)


@pytest.mark.parametrize("without", [None, np.array([2], dtype=np.int32)])
def test_users_are_mapped_and_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: np.ndarray | None
) -> None:
    replace(USERS, without_vectors=without).save(tmp_path / "users.bin")
    monkeypatch.delattr(IdTable, "__init__")  # which sorts
    users = UserTable.load(tmp_path / "users.bin")
    assert [users.history(users.ids.number(raw) or 0).tolist() for raw in ("ann", "Bé", "carl")] == [[4, 2], [], [9]]
    assert [users.ids.raw(number + 1) for number in range(len(users))] == ["ann", "Bé", "carl"]
    assert (users.without_vectors is None) == (without is None)
    assert not any(array.flags.owndata for array in (users.ids.ordered, users.items, users.offsets))


def test_damaged_tables_of_users_are_named(tmp_path: Path) -> None:
    path = tmp_path / "users.bin"
    USERS.save(path)
    tables = TableFile(path)
    whole = {name: tables.map(name).copy() for name in tables.layout}
    for missing in whole:
        write_tables(path, {name: array for name, array in whole.items() if name != missing})
        with pytest.raises(CatalogError, match=f"no table '{missing}'"):
            UserTable.load(path)
    for name in ("users.items", "users.offsets", "ids.ordered"):
        write_tables(path, {**whole, name: whole[name][:-1]})
        with pytest.raises(CatalogError, match=r"users\.bin do not fit together"):
            UserTable.load(path)


def test_a_catalog_without_its_tables_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    catalog, path = Catalog.create(["a", "b"], tokenizer), tmp_path / "catalog.bin"
    catalog.save(path)
    tables = TableFile(path)
    whole = {name: tables.map(name).copy() for name in tables.layout}
    for missing in whole:
        write_tables(path, {name: array for name, array in whole.items() if name != missing})
        if missing in (TEXTS, *map(widest, range(LEVELS))):
            continue
        with pytest.raises(CatalogError, match=f"no table '{missing}'"):
            _ = Catalog.load(path).trie
    write_tables(path, {**whole, "node_item": whole["node_item"][:-1]})
    with pytest.raises(CatalogError, match="do not fit together"):
        _ = Catalog.load(path).trie


def test_loading_builds_nothing(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Catalog.create([f"item {n}" for n in range(40)], tokenizer)
    built.save(tmp_path / "catalog.bin")
    monkeypatch.delattr("podx.bundle.trie._build")
    loaded = Catalog.load(tmp_path / "catalog.bin")
    for name in ("child_start", "edge_token", "parent", "item", "subtree_items", "item_node"):
        assert np.array_equal(getattr(loaded.trie, name), getattr(built.trie, name)), name
    assert loaded.trie.depth == built.trie.depth
    assert np.array_equal(loaded.trie.tokens_in_use(), built.trie.tokens_in_use())
    assert not loaded.tokens.flags.owndata and not loaded.trie.child_start.flags.writeable


def test_an_item_that_is_not_listed_keeps_its_number_and_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = Catalog.create(["a", "b", "c"], tokenizer, texts=["12_3", "12_45", "12_399"])
    replace(whole, listed=np.array([True, False, True])).save(tmp_path / "catalog.bin")
    loaded = Catalog.load(tmp_path / "catalog.bin")
    assert loaded.items.number("b") == 2 and loaded.text(2) == "12_45"
    assert loaded.target(2).tolist() == whole.target(2).tolist()
    assert loaded.listed.tolist() == [True, False, True]
    assert loaded.trie.item_node[2] == ROOT and set(loaded.trie.item.tolist()) == {NO_ITEM, 1, 3}
    assert (loaded.trie.item_count, loaded.trie.listed_count) == (3, 2)
