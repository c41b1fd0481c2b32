"""``beams="auto"``: whatever the items, limits and k, the list is the one that scoring every item gives."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from podx.bundle import signature as sig
from podx.decoding.items import ItemResults
from podx.decoding.options import ItemSearchOptions
from podx.errors import ConfigError
from podx.graphs.catalog_search import CatalogSearch
from podx.graphs.model import GraphModel, batch_feeds
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx_export.blocks.graph import INT8
from tests.export.one_pass_world import CEILING, CODES, ITEMS, WIDE_CODES, all_scores, make_world, requests
from tests.export.test_one_pass_export import assert_same
from tests.export.tiny import KINDS, PLAIN, Small, make_small, permitted

AUTO = ItemSearchOptions(beams="auto")
KINDS_OF_ITEMS = [*CODES, *WIDE_CODES]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Small]:
    """Random weights over items of every kind."""
    folder = tmp_path_factory.mktemp("exact_search")
    return {kind: make_world(folder / str(number), kind) for number, kind in enumerate(KINDS_OF_ITEMS)}


def best(small: Small, batch: ItemBatch, penalty: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The k best permitted items of each request and their scores, every item scored on its own."""
    may = permitted(small, batch.denied, batch.allowed)
    truth = np.where(may, all_scores(small.source, batch.text, penalty), -np.inf)
    items = np.argsort(-truth, axis=1, kind="stable")[:, : batch.k]
    scores = np.take_along_axis(truth, items, axis=1)
    return np.where(scores > -np.inf, items, 0), scores


def run(small: Small, batch: ItemBatch, beams: int, most: int) -> ItemResults:
    """The graph with a first wave of ``beams`` and a second of up to ``most``."""
    sizes = {sig.BEAMS: beams, sig.K: batch.k, sig.MOST_BEAMS: most}
    feeds = {**batch_feeds(batch), **{name: np.array([size], dtype=np.int64) for name, size in sizes.items()}}
    session = small.model.session(sig.EXACT_FILE)
    return ItemResults(*session.run(feeds, to_host=session.outputs).values())


@pytest.mark.parametrize(("k", "penalty"), [(1, 1.0), (10, 1.0), (10, -1.0), (10, 0.0), (ITEMS - 1, 2.0), (ITEMS, 1.0)])
@pytest.mark.parametrize("kind", KINDS_OF_ITEMS)
def test_auto_finds_what_scoring_every_item_finds(worlds: dict[str, Small], kind: str, k: int, penalty: float) -> None:
    small = worlds[kind]
    batch = requests(small, seed=k, rows=3 * KINDS, k=k)
    found = small.search(batch, replace(AUTO, length_penalty=penalty))
    assert_same(found, *best(small, batch, penalty))
    assert found.exact is not None and found.exact.all()


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("kind", [kind for kind in KINDS_OF_ITEMS if kind != "one token"])
def test_however_narrow_the_first_wave(worlds: dict[str, Small], kind: str, beams: int) -> None:
    small = worlds[kind]
    batch = requests(small, seed=beams, rows=2 * KINDS, k=beams)
    narrow = small.search(batch, ItemSearchOptions(beams))
    assert narrow.exact is not None and not narrow.exact.all()  # so the second wave had something to do
    found = run(small, batch, beams, most=1024)
    assert_same(found, *best(small, batch))
    assert found.exact is not None and found.exact.all()


@pytest.mark.parametrize("kind", ["three codes", *WIDE_CODES])
def test_where_the_limit_is_hit_the_answer_says_so(worlds: dict[str, Small], kind: str) -> None:
    small = worlds[kind]
    batch = requests(small, seed=1, rows=12 * KINDS, k=3)
    items, scores = best(small, batch)
    found = run(small, batch, beams=3, most=2)
    assert found.exact is not None and 0 < found.exact.sum() < len(items)
    np.testing.assert_allclose(found.scores[found.exact], scores[found.exact], atol=1e-4)
    assert (found.scores[~found.exact] < scores[~found.exact] - 1e-4).any()
    narrow = small.search(batch, ItemSearchOptions(3))
    assert (found.scores >= narrow.scores - 1e-5).all()  # never worse than the first wave


def test_a_ceiling_changes_scores_and_makes_narrow_searches_certain(tmp_path: Path) -> None:
    kind = "under a ceiling"
    below, above = (make_world(tmp_path / str(ceiling), kind, ceiling=ceiling) for ceiling in (CEILING, 1.0))
    batch = requests(below, seed=4, rows=8 * KINDS, k=3)
    scores = [all_scores(small.source, batch.text, 0.0)[:, 1:] for small in (below, above)]
    assert (np.abs(scores[0] - scores[1]) > 0.01).mean() > 0.2
    np.testing.assert_allclose(np.exp(scores).sum(axis=2), 1.0, atol=1e-5)  # all items, either way
    certain = []
    for small in (below, above):
        found = small.search(batch, ItemSearchOptions(5))
        assert found.exact is not None
        certain.append(found.exact.sum())
        np.testing.assert_allclose(found.scores[found.exact], best(small, batch)[1][found.exact], atol=1e-4)
    assert certain[0] > certain[1]


def test_ties(tmp_path: Path) -> None:
    small = make_world(tmp_path / "plain", "three codes")
    with torch.no_grad():
        small.source.model.backbone.decoder.final_layer_norm.weight.zero_()  # siblings are worth the same
    small = make_small(small.source, small.catalog, tmp_path / "even")
    batch = requests(small, seed=3, rows=2 * KINDS, k=7)
    found = small.search(batch, AUTO)
    items, scores = best(small, batch)
    assert found.exact is not None and found.exact.all()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    for row, own in enumerate(found.items):
        assert len(set(own[own > 0])) == (items[row] > 0).sum()


@pytest.mark.parametrize("kind", ["three codes", "wide"])
def test_a_batch_gives_what_each_request_gets_alone(worlds: dict[str, Small], kind: str) -> None:
    small = worlds[kind]
    batch = requests(small, seed=5, rows=KINDS, k=10)
    together = small.search(batch, AUTO)
    for row in range(batch.text.size):
        alone = small.search(batch.rows(np.array([row])), AUTO)
        assert_same(alone, together.items[[row]], together.scores[[row]])


@pytest.mark.parametrize("kind", ["three codes", "under a ceiling"])
def test_int8_answers_as_its_widest_search(kind: str, tmp_path: Path) -> None:
    small = make_world(tmp_path, kind, precision=INT8)
    batch = requests(small, seed=2, rows=3 * KINDS, k=10)
    found, wide = small.search(batch, AUTO), small.search(batch, ItemSearchOptions(ITEMS))
    assert found.exact is not None and found.exact.all() and wide.exact is not None and wide.exact.all()
    assert_same(found, wide.items, wide.scores)


def test_long_lists_and_lists_that_are_too_long(worlds: dict[str, Small]) -> None:
    small = worlds["wide"]
    batch = requests(small, seed=0, rows=2, k=3)
    long = replace(batch, denied=[np.arange(600) % 170 + 1, PLAIN], allowed=[None, None])
    assert_same(small.search(long, AUTO), *best(small, long))
    with pytest.raises(ConfigError, match="beams='auto'"):
        small.search(replace(long, denied=[np.arange(5_000), PLAIN]), AUTO)


def test_bundles_without_the_graph_retry(worlds: dict[str, Small]) -> None:
    small = worlds["three codes"]
    files = {name: sum_ for name, sum_ in small.bundle.manifest.files.items() if name != sig.EXACT_FILE}
    older = copy(small.bundle)
    older.manifest = replace(small.bundle.manifest, files=files)
    search = CatalogSearch(older, GraphModel(older, SessionOptions()), "auto").chosen(AUTO)
    batch = requests(small, seed=1, rows=KINDS, k=10)
    found, auto = search(batch), small.search(batch, AUTO)
    assert found.exact is not None and found.exact.all()
    assert_same(found, auto.items, auto.scores)


def test_the_step_graphs_cannot(worlds: dict[str, Small]) -> None:
    small = worlds["three codes"]
    with pytest.raises(ConfigError, match="beams='auto' need"):
        small.search(requests(small, 0, 1, 1), AUTO, "steps")
