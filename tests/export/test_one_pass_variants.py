"""One-pass bundles beside the usual: other precisions, fixed sizes, long lists, another catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle import signature as sig
from podx.decoding.options import CUDA_GRAPH_K, ItemSearchOptions
from podx.errors import CatalogError
from podx.graphs.catalog_search import LONG_LIST
from podx.graphs.cuda_graph import CudaGraphRecommender
from podx.graphs.model import batch_feeds
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx_export.catalog.change import CatalogChange, NewItem
from podx_export.catalog.update import update_bundle
from podx_export.search import recommend, scores
from tests.export.one_pass_world import ITEMS, all_scores, make_world, requests
from tests.export.test_one_pass_export import assert_same
from tests.export.tiny import KINDS, PLAIN, Small, permitted


@pytest.fixture(scope="module")
def one_token(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_world(tmp_path_factory.mktemp("variants") / "one", "one token")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_world(tmp_path_factory.mktemp("variants") / "codes", "under a ceiling")


@pytest.mark.parametrize("world", ["one_token", "codes"])
def test_fixed_sizes_give_the_same(world: str, request: pytest.FixtureRequest) -> None:
    small: Small = request.getfixturevalue(world)
    captured = CudaGraphRecommender(small.bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions())
    for rows in (KINDS, 3):  # the second batch finds what the first left in the buffers
        batch = requests(small, seed=rows, rows=rows, k=CUDA_GRAPH_K)
        found, usual = captured.run(batch_feeds(batch)), small.search(batch, ItemSearchOptions())
        assert found is not None
        assert_same(usual, found[sig.ITEMS], found[sig.SCORES])
        np.testing.assert_array_equal(found[sig.EXACT], usual.exact)


@pytest.mark.parametrize("limit", [0, 1000])
def test_large_levels_and_small_ones(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "FULL_PRODUCT", limit)
    monkeypatch.setattr(scores, "FULL_PRODUCT_OF_NODES", limit)
    monkeypatch.setattr(recommend, "PREPARED", limit)
    small = make_world(tmp_path, "other lengths")
    batch = requests(small, seed=3, rows=KINDS, k=CUDA_GRAPH_K)
    steps = small.search(batch, ItemSearchOptions(), "steps")
    assert_same(small.search(batch, ItemSearchOptions()), steps.items, steps.scores)
    captured = CudaGraphRecommender(small.bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions()).run(batch_feeds(batch))
    assert captured is not None
    assert_same(steps, captured[sig.ITEMS], captured[sig.SCORES])
    short = ItemBatch(batch.text, 0, [PLAIN] * KINDS, [np.arange(1, ITEMS, 3)] * KINDS, 5)  # nobody is left at level 2
    steps = small.search(short, ItemSearchOptions(), "steps")
    assert_same(small.search(short, ItemSearchOptions()), steps.items, steps.scores)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    small = make_world(tmp_path, "three codes", precision=precision)
    batch = requests(small, seed=3, rows=KINDS, k=10)
    found = small.search(batch, ItemSearchOptions())
    may = permitted(small, batch.denied, batch.allowed)
    truth = -np.sort(-np.where(may, all_scores(small.source, batch.text), -np.inf), axis=1)[:, :10]
    np.testing.assert_allclose(found.scores, truth, atol=0.3)
    if precision == "fp16":  # in 8 bits the range of activations hangs on all rows of a product, and so on the graph
        steps = small.search(batch, ItemSearchOptions(), "steps")
        np.testing.assert_allclose(found.scores, steps.scores, atol=2e-2)


def test_long_lists_go_to_the_step_graphs_and_stay_certain(one_token: Small) -> None:
    batch = requests(one_token, seed=1, rows=3, k=10)
    denied = [np.resize(np.arange(1, ITEMS - 3), LONG_LIST + 1), PLAIN, PLAIN]
    batch = ItemBatch(batch.text, 0, denied, [None] * 3, 10)
    steps = one_token.search(batch, ItemSearchOptions(), "auto")
    assert steps.exact is not None and steps.exact.all() and (steps.items[0] > 0).sum() == 4
    assert_same(one_token.search(batch, ItemSearchOptions(), "one"), steps.items, steps.scores)


def test_lists_change_no_score(codes: Small) -> None:
    batch = requests(codes, seed=2, rows=KINDS, k=ITEMS)
    free = ItemBatch(batch.text, 0, [PLAIN] * KINDS, [None] * KINDS, ITEMS)
    options = ItemSearchOptions(ITEMS)
    everything, limited = codes.search(free, options), codes.search(batch, options)
    for row in range(KINDS):
        score_of = dict(zip(everything.items[row].tolist(), everything.scores[row].tolist(), strict=True))
        for item, score in zip(limited.items[row].tolist(), limited.scores[row].tolist(), strict=True):
            assert not item or score == pytest.approx(score_of[item], abs=1e-5)


def test_an_item_of_shared_codes_may_be_added(tmp_path: Path) -> None:
    small = make_world(tmp_path, "two codes")
    change = CatalogChange(delist=["item-4"], add=[NewItem("new", "<a_6><b_8>")])
    update_bundle(small.bundle.path, tmp_path / "new", change)
    recommender = podx.load(tmp_path / "new", device="cpu", threads=1)
    found = recommender.recommend("somebody", ["new", "item-4"], k=ITEMS, exclude_seen=False)
    assert found.exact and sorted(answer.item for answer in found) == sorted(
        {f"item-{n}" for n in range(1, ITEMS + 1)} - {"item-4"} | {"new"}
    )
    steps = podx.load(tmp_path / "new", device="cpu", threads=1, search_graph="steps")
    again = steps.recommend("somebody", ["new", "item-4"], k=ITEMS, exclude_seen=False)
    assert [answer.score for answer in again] == pytest.approx([answer.score for answer in found], abs=1e-5)


def test_a_new_code_is_refused(one_token: Small, codes: Small, tmp_path: Path) -> None:
    unknown = [(one_token, "7"), (codes, "<a_0><b_0><a_1>"), (codes, "<a_0><b_0>")]
    for small, text in unknown:
        change = CatalogChange(add=[NewItem("new", text)])
        with pytest.raises(CatalogError, match=r"'new', written .*, has a code that no item of the catalog has at its"):
            update_bundle(small.bundle.path, tmp_path / "out", change)
