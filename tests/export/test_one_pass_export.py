"""One-pass models: numpy search, one graph, transformers and every item's own score give the same lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle import signature as sig
from podx.bundle.trie import ROOT
from podx.decoding.items import ItemResults
from podx.decoding.options import ItemSearchOptions
from podx.errors import ConfigError, ExportError
from podx.graphs.model import batch_feeds
from podx.graphs.session import GraphSession, SessionOptions
from podx.text.templates import Task
from podx_export.pipeline import export_checkpoint
from podx_export.verify.parity import as_good_list, same_list
from podx_train.eager.generation import EagerRecommender, SearchOptions
from tests.export.one_pass_world import CODES, ITEMS, all_scores, make_world, one_pass_world, requests, write_one_pass
from tests.export.tiny import KINDS, Small, permitted

EVEN = [kind for kind in CODES if kind != "other lengths"]
"""Worlds whose items are all as long, so that transformers drops no ending."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Small]:
    """Random weights over items of every kind."""
    folder = tmp_path_factory.mktemp("one_pass")
    return {kind: make_world(folder / str(number), kind) for number, kind in enumerate(CODES)}


def pairs(items: np.ndarray, scores: np.ndarray) -> list[list[tuple[int, float]]]:
    rows = zip(items.tolist(), scores.tolist(), strict=True)
    return [[(i, s) for i, s in zip(own, values, strict=True) if i] for own, values in rows]


def assert_same(found: ItemResults, items: np.ndarray, scores: np.ndarray) -> None:
    """The same lists, ties aside."""
    both = zip(pairs(found.items, found.scores), pairs(items, scores), strict=True)
    assert [(ours, theirs) for ours, theirs in both if not same_list(ours, theirs)] == []


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("kind", CODES)
def test_wide_searches_find_what_scoring_every_item_finds(worlds: dict[str, Small], kind: str, penalty: float) -> None:
    small = worlds[kind]
    batch = requests(small, seed=1, rows=2 * KINDS, k=ITEMS)
    may = permitted(small, batch.denied, batch.allowed)
    truth = np.where(may, all_scores(small.source, batch.text, penalty), -np.inf)
    best = np.argsort(-truth, axis=1, kind="stable")[:, :ITEMS]
    scores = np.take_along_axis(truth, best, axis=1)
    best = np.where(scores > -np.inf, best, 0)
    for graph in ("steps", "one"):
        found = small.search(batch, ItemSearchOptions(ITEMS, penalty), graph)
        assert_same(found, best, scores)
        if graph == "one" or kind == "one token":
            assert found.exact is not None and found.exact.all()


def test_lists_of_one_token_items_may_hold_anything(worlds: dict[str, Small]) -> None:
    small, beyond, none = worlds["one token"], ITEMS + 7, -1
    first, second, third = np.flatnonzero(small.catalog.trie.item_node != ROOT)[:3].tolist()
    excluded = [[first, first], [first, none], [none, beyond], [0, none], [none, none]]
    allowed = [[second, second, none], [third, first, none], [beyond, none, none], [0, none, second], [none] * 3]
    feeds = batch_feeds(requests(small, seed=0, rows=5, k=ITEMS))
    feeds |= {sig.EXCLUDED_ITEMS: np.array(excluded), sig.ALLOWED_ITEMS: np.array(allowed), sig.K: np.array([ITEMS])}
    session = GraphSession(small.bundle.file(sig.RECOMMEND_FILE), SessionOptions())
    items = session.run(feeds, session.outputs)[sig.ITEMS]
    answers = [set(row.tolist()) - {0} for row in items]
    everything = set(np.flatnonzero(small.catalog.trie.item_node != ROOT).tolist())
    assert answers == [{second}, {third}, set(), {second}, everything]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", CODES)
def test_one_graph_equals_the_step_graphs(worlds: dict[str, Small], kind: str, beams: int) -> None:
    small, certain = worlds[kind], 0
    for k in (1, 10):
        batch = requests(small, seed=beams, rows=2 * KINDS, k=k)
        steps = small.search(batch, ItemSearchOptions(beams), "steps")
        one = small.search(batch, ItemSearchOptions(beams), "one")
        assert_same(one, steps.items, steps.scores)
        counts = permitted(small, batch.denied, batch.allowed).sum(axis=1)
        np.testing.assert_array_equal((one.items > 0).sum(axis=1), np.minimum(counts, k))
        truth = np.where(permitted(small, batch.denied, batch.allowed), all_scores(small.source, batch.text), -np.inf)
        best = -np.sort(-truth, axis=1)[:, :k]
        assert one.exact is not None
        np.testing.assert_allclose(one.scores[one.exact], best[one.exact], atol=1e-4)
        certain += int(one.exact.sum())
    assert certain > 0 if kind != "one token" else certain == 4 * KINDS


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "updates"), [("one token", 0), ("three codes", 30)])
def test_lists_equal_transformers_for_a_thousand_requests(kind: str, updates: int, tmp_path: Path) -> None:
    small, different = make_world(tmp_path, kind, updates), 0
    eager = EagerRecommender(small.source.model, small.source.tokenizer, small.catalog)
    for seed in range(4):
        batch = requests(small, seed, rows=250, k=10)
        theirs = eager.recommend(batch.text, Task.SEQUENTIAL, SearchOptions(), batch.denied, batch.allowed)
        assert theirs.scores is not None
        expected = pairs(theirs.items, theirs.scores)
        for graph in ("steps", "one"):
            found = small.search(batch, ItemSearchOptions(), graph)
            answered = pairs(found.items, found.scores)
            different += sum(not same_list(*both) for both in zip(answered, expected, strict=True))
    assert different == 0


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (7, -1.0), (40, 2.0)])
@pytest.mark.parametrize("kind", CODES)
def test_other_widths_and_penalties(worlds: dict[str, Small], kind: str, beams: int, penalty: float) -> None:
    small = worlds[kind]
    batch = requests(small, seed=beams, rows=2 * KINDS, k=min(beams, 10))
    eager = EagerRecommender(small.source.model, small.source.tokenizer, small.catalog, "as-published")
    options = SearchOptions(beams, num_return=batch.k, length_penalty=penalty)
    theirs = eager.recommend(batch.text, Task.TOPN, options, batch.denied, batch.allowed)
    assert theirs.scores is not None
    found = small.search(batch, ItemSearchOptions(beams, penalty))
    both = zip(pairs(found.items, found.scores), pairs(theirs.items, theirs.scores), strict=True)
    alike = same_list if kind in EVEN else as_good_list
    assert all(alike(ours, eager_list) for ours, eager_list in both)


def test_a_batch_gives_what_each_request_gets_alone(worlds: dict[str, Small]) -> None:
    small = worlds["three codes"]
    batch = requests(small, seed=5, rows=KINDS, k=10)
    together = small.search(batch, ItemSearchOptions())
    for row in range(batch.text.size):
        alone = small.search(batch.rows(np.array([row])), ItemSearchOptions())
        assert_same(alone, together.items[[row]], together.scores[[row]])


@pytest.mark.parametrize("score_over", ["catalog", "vocabulary"])
def test_other_scores_are_refused(worlds: dict[str, Small], score_over: str) -> None:
    small = worlds["two codes"]
    with pytest.raises(ConfigError, match="leave score_over out"):
        small.search(requests(small, 0, 1, 1), ItemSearchOptions(score_over=score_over), "steps")  # type: ignore[arg-type]


def test_no_item_may_begin_another(tmp_path: Path) -> None:
    codes = (*CODES["two codes"][:10], ("<a_0>",), *CODES["two codes"][11:])
    checkpoint = write_one_pass(tmp_path / "checkpoint", one_pass_world(codes))
    with pytest.raises(ExportError, match="item number 11 begins another item's"):
        export_checkpoint(checkpoint, tmp_path / "bundle")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that also explains, exported with parity: bidirectional rows beside causal ones."""
    folder = tmp_path_factory.mktemp("exported")
    world = one_pass_world(CODES["three codes"])
    write_one_pass(folder / "checkpoint", world, tasks=(Task.EXPLANATION, Task.SEQUENTIAL))
    manifest = export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=8)
    assert manifest.one_pass and manifest.parity["requests"] == 24 and manifest.parity["equal_lists"] == 1.0
    return folder / "bundle"


def test_every_kind_of_request(exported: Path) -> None:
    recommender = podx.load(exported, device="cpu", threads=1)
    known = recommender.recommend("user-1", k=5)
    history = [recommender.bundle.catalog.items.raw(n) for n in recommender.bundle.users.history(1).tolist()][-8:]
    assert recommender.recommend("user-1", history, k=5) == known
    newcomer = recommender.recommend("a newcomer", history, k=5)
    assert newcomer == known and newcomer.user == "known"  # no user stands in the input
    assert len(recommender.recommend("a newcomer", [], k=5)) == 5
    candidates = [f"item-{n}" for n in range(1, 41)]
    ranked = recommender.rank("user-1", candidates, k=40)
    assert sorted(answer.item for answer in ranked) == sorted(candidates)
    assert recommender.rank("user-1", candidates, k=40, history=history) == ranked
    allowed = recommender.recommend("user-1", k=40, allow=candidates, exclude_seen=False)
    assert [answer.score for answer in allowed] == pytest.approx([answer.score for answer in ranked], abs=1e-5)
    assert recommender.explain("user-1", "item-3").text
    with pytest.raises(ConfigError, match="no search over all tokens"):
        recommender.generate_items_batch([podx.RecommendRequest("user-1")])
