"""Another catalog for a bundle: over a hand-made graph that reads the trie, and over a real bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.atomic import PARTIAL_SUFFIX, REPLACED_SUFFIX
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.manifest import MANIFEST_FILE
from podx.bundle.signature import RECOMMEND_FILE
from podx.errors import BundleError, CatalogError, ExportError, TokenizerError
from podx_export.catalog import update as catalog_update
from podx_export.catalog.change import CatalogChange, NewItem
from podx_export.catalog.update import update_bundle
from podx_train.checkpoint.checkpoint import load_checkpoint
from tests.export.small_bundles import IDS, LEVELS, OTHER_GRAPH, contents, require_whole, signed, write_small_bundle

ITEMS = 300
"""Items of the real bundle."""


@pytest.fixture
def bundle(tmp_path: Path, untrained: Path) -> Path:
    """See :func:`tests.export.small_bundles.write_small_bundle`."""
    return write_small_bundle(tmp_path / "bundle", load_checkpoint(untrained).tokenizer)


def test_delisted_items_leave_the_trie_and_come_back(bundle: Path, tmp_path: Path) -> None:
    before, at_first = contents(bundle), require_whole(bundle)
    less = tmp_path / "less"
    manifest = update_bundle(bundle, less, CatalogChange(delist=["item 3", "item 30"]))
    catalog = require_whole(less)
    assert contents(bundle) == before
    assert manifest.provenance["catalog"]["items"] == 30 and manifest.provenance["catalog"]["listed"] == 28
    assert manifest == Bundle.load(less).manifest
    assert np.flatnonzero(~catalog.listed).tolist() == [2, 29]
    assert catalog.trie.item_node[[3, 30]].tolist() == [0, 0] and catalog.trie.listed_count == 28
    assert catalog.items.number("item 3") == 3 and catalog.text(30) == "30"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "less"]
    update_bundle(less, tmp_path / "again", CatalogChange(restore=["item 30", "item 3", "item 1"]))
    again = require_whole(tmp_path / "again")
    assert again.listed.all() and np.array_equal(again.trie.child_start, at_first.trie.child_start)


def test_unchanged_files_are_shared_and_graphs_without_a_trie_stay(bundle: Path, tmp_path: Path) -> None:
    update_bundle(bundle, tmp_path / "new", CatalogChange(delist=["item 3"]))
    for name in (OTHER_GRAPH, "weights.bin", "spiece.model"):
        assert (tmp_path / "new" / name).samefile(bundle / name)
    for name in (CATALOG_FILE, RECOMMEND_FILE, MANIFEST_FILE):
        assert not (tmp_path / "new" / name).samefile(bundle / name)


def test_files_are_copied_where_they_cannot_be_linked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not on this disk")

    monkeypatch.setattr(catalog_update.os, "link", no_links)
    update_bundle(bundle, tmp_path / "new", CatalogChange(delist=["item 3"]))
    assert (tmp_path / "new" / "weights.bin").read_bytes() == b"weights"
    assert not (tmp_path / "new" / "weights.bin").samefile(bundle / "weights.bin")
    require_whole(tmp_path / "new")


def test_new_items_get_new_numbers(bundle: Path, tmp_path: Path) -> None:
    new = [NewItem("Zoë's"), NewItem("spare part", "77_5"), NewItem("item 31")]
    update_bundle(bundle, tmp_path / "new", CatalogChange(add=new, delist=["item 2"]))
    catalog = require_whole(tmp_path / "new")
    assert [catalog.items.number(item.raw_id) for item in new] == [31, 32, 33]
    assert [catalog.text(number) for number in (1, 30, 31, 32, 33)] == ["1", "30", "31", "77_5", "33"]
    assert [catalog.items.raw(number) for number in (1, 31)] == ["item 1", "Zoë's"]
    assert all(catalog.items.number(raw) == number for number, raw in enumerate(IDS, start=1))
    tokenizer = Bundle.load(bundle).tokenizer
    assert catalog.target(32).tolist() == list(tokenizer.encode("77_5"))
    assert catalog.trie.item[catalog.trie.item_node[32]] == 32 and catalog.trie.listed_count == 32
    update_bundle(tmp_path / "new", tmp_path / "newer", CatalogChange(add=[NewItem("x")]))
    assert require_whole(tmp_path / "newer").text(34) == "34"


def test_without_texts_none_are_stored(bundle: Path, tmp_path: Path) -> None:
    update_bundle(bundle, tmp_path / "new", CatalogChange(add=[NewItem("x")]))
    catalog = require_whole(tmp_path / "new")
    assert catalog.texts is None and catalog.text(31) == "31"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (CatalogChange(delist=["item 1", "nothing"]), "1 of 2 items are not in the catalog .'nothing'"),
        (CatalogChange(restore=["nothing"]), "1 of 1 items are not in the catalog"),
        (CatalogChange(delist=["item 1"], restore=["item 1"]), "both delisted and listed .'item 1'"),
        (CatalogChange(add=[NewItem("item 1")]), "1 of 1 new items are in the catalog already .*--list"),
        (CatalogChange(add=[NewItem("x", "88"), NewItem("x", "89")]), "id 'x' occurs more than once"),
        (CatalogChange(add=[NewItem("", "88")]), "cannot be stored"),
        (CatalogChange(add=[NewItem("x", "7")]), "'x' is written with the same tokens as 'item 7'"),
        (CatalogChange(add=[NewItem("x", "7")], delist=["item 7"]), "same tokens as 'item 7'"),
        (CatalogChange(add=[NewItem("x", "99"), NewItem("y", "99")]), "'y' is written with the same tokens as 'x'"),
        (CatalogChange(delist=IDS), "no item of the catalog.* is listed"),
        (CatalogChange(add=[NewItem("x", "1_2_3")]), rf"tokens, but {RECOMMEND_FILE} walks {LEVELS}"),
        (CatalogChange(add=[NewItem("x", "_".join("123456789") * 3)]), "walks 8 at most"),
    ],
)
def test_a_change_that_cannot_be_is_refused(bundle: Path, tmp_path: Path, change: CatalogChange, message: str) -> None:
    before = contents(bundle)
    for out in (tmp_path / "new", bundle):
        with pytest.raises(CatalogError, match=message):
            update_bundle(bundle, out, change)
    assert contents(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_item_the_tokeniser_cannot_write_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot write"):
        update_bundle(bundle, tmp_path / "new", CatalogChange(add=[NewItem("x", "漢")]))


def test_in_place_takes_the_place_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    held = Bundle.load(bundle).catalog
    update_bundle(bundle, bundle, CatalogChange(delist=["item 5"]))
    assert require_whole(bundle).trie.listed_count == 29
    assert held.trie.listed_count == 30 and held.items.raw(5) == "item 5"  # who has it mapped keeps the old one
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_in_use_is_spared(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    for out in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(ExportError, match=r"is in use: .*--in-place"):
            update_bundle(bundle, out, CatalogChange(delist=["item 5"]))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_a_damaged_bundle_is_not_changed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"weights\.bin is damaged"):
        update_bundle(bundle, tmp_path / "new", CatalogChange(delist=["item 5"]))


def test_a_bundle_without_such_a_catalog_is_told(bundle: Path, tmp_path: Path) -> None:
    (bundle / CATALOG_FILE).unlink()
    with pytest.raises(BundleError, match=r"no catalog\.bin: export it again"):
        update_bundle(signed(bundle), tmp_path / "new", CatalogChange(delist=["item 5"]))


@pytest.mark.parametrize("stage", ["file_sha256", "_renew_graphs", "_share", "put_in_place"])
def test_an_interrupt_leaves_the_old_bundle(
    stage: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    before = contents(bundle)
    monkeypatch.setattr(catalog_update, stage, die)
    for out in (bundle, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            update_bundle(bundle, out, CatalogChange(delist=["item 5"]))
    assert contents(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


KILLED = """
import os, signal, sys
from pathlib import Path
from podx_export.catalog import update as catalog_update
from podx_export.catalog.change import CatalogChange
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
target, name = sys.argv[2:]
setattr(Path if target == "Path" else catalog_update, name, die)
bundle = Path(sys.argv[1])
catalog_update.update_bundle(bundle, bundle, CatalogChange(delist=["item 5"]))
"""


@pytest.mark.parametrize("stage", ["_renew_graphs", "put_in_place"])
def test_a_kill_leaves_the_old_bundle_and_the_next_change_succeeds(stage: str, bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(bundle), "update", stage], env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    assert contents(bundle) == before and require_whole(bundle).listed.all()
    update_bundle(bundle, bundle, CatalogChange(delist=["item 5"]))
    assert require_whole(bundle).trie.listed_count == 29
    assert not (tmp_path / f"bundle{PARTIAL_SUFFIX}").exists()


def test_a_kill_between_two_renames_is_mended_by_the_next_change(bundle: Path, tmp_path: Path) -> None:
    bundle.rename(tmp_path / f"bundle{REPLACED_SUFFIX}")
    update_bundle(bundle, bundle, CatalogChange(delist=["item 5"]))
    assert require_whole(bundle).trie.listed_count == 29
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search_graph", ["one", "steps"])
def test_a_delisted_item_never_comes_back(search_graph: str, untrained_bundle: Path, tmp_path: Path) -> None:
    how = {"device": "cpu", "threads": 1, "search_graph": search_graph}
    request = {"user": "user-1", "history": ["item-1", "item-8"], "k": 12}
    before = podx.load(untrained_bundle, **how).recommend(**request)
    gone = [answer.item for answer in before[::2]] + ["item-8"]
    update_bundle(untrained_bundle, tmp_path / "new", CatalogChange(delist=gone, add=[NewItem("item-300")]))
    recommender = podx.load(tmp_path / "new", **how)
    after = recommender.recommend(**request)
    assert len(after) == 12 and not {answer.item for answer in after} & set(gone)
    assert {answer.item for answer in before[1::2]} <= {answer.item for answer in after}
    only = recommender.recommend("user-1", ["item-1"], k=5, allow=[*gone, "item-20", "item-300"])
    assert {answer.item for answer in only} == {"item-20", "item-300"}
    ranked = recommender.rank("user-1", [*gone, "item-20"], k=5)
    assert [answer.item for answer in ranked] == ["item-20"]
    assert recommender.recommend("user-1", ["item-1"], k=5, allow=gone) == []


def test_the_one_graph_still_answers_like_the_step_graphs(untrained_bundle: Path, tmp_path: Path) -> None:
    """A third of the items gone, some of them new, and one excluded that is not listed."""
    gone = [f"item-{n}" for n in range(0, ITEMS, 3)]
    new = [NewItem(f"new {n}", f"{n}") for n in range(ITEMS + 1, ITEMS + 40)]
    update_bundle(untrained_bundle, tmp_path / "new", CatalogChange(delist=gone, add=new))
    either = (None, [*gone, *(item.raw_id for item in new)])
    requests = [
        podx.RecommendRequest(f"user-{n}", [f"item-{n}", "new 302"], ["item-0", "new 301"], either[n % 2])
        for n in range(20)
    ]
    one, steps = (
        podx.load(tmp_path / "new", device="cpu", threads=1, search_graph=graph).recommend_batch(requests)
        for graph in ("one", "steps")
    )
    for mine, other in zip(one, steps, strict=True):
        assert [answer.item for answer in mine] == [answer.item for answer in other] and len(mine) == 10
        assert np.allclose([answer.score for answer in mine], [answer.score for answer in other], atol=1e-4)
        assert not {answer.item for answer in mine} & {*gone, "new 301", "new 302"}
    assert all(answer.item.startswith("new") for answers in one[1::2] for answer in answers)
