"""Which graph searches, and asking again until the answer is certain; no graph is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.bundle.trie import NO_ITEM
from podx.decoding.items import ItemResults
from podx.decoding.options import MAX_RETRY_BEAMS, ItemSearchOptions
from podx.errors import ConfigError
from podx.graphs.catalog_search import LONG_LIST, LONGEST_LIST, CatalogSearch, SearchGraph
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.inputs import Batch
from tests.podx.bundles import ITEM_IDS, ITEMS, USER_IDS, write_bundle
from tests.podx.fakes import FakeGraphModel

OVER_ALL = ItemSearchOptions(score_over="vocabulary")
RETRY = ItemSearchOptions(exact="retry")
NONE = np.zeros(0, dtype=np.int64)
FIRST_TOKEN = 3


class OneGraph(FakeGraphModel):
    """A model whose graph of the whole search says how wide it searched.

    A row is certain once the width reaches its first token, and its answers are (that token, the width).
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        super().__init__(bundle, options)
        self.runs: list[tuple[int, int]] = []  # requests and width of each

    def recommend(self, batch: ItemBatch, options: ItemSearchOptions) -> ItemResults:
        needed = batch.text.input_ids[:, 0]
        assert len(batch.denied) == len(batch.allowed) == len(needed)
        assert [len(items) for items in batch.denied] == needed.tolist()  # rows stay with their lists
        self.runs.append((len(needed), options.beams))
        items = np.zeros((len(needed), batch.k), dtype=np.int64)
        items[:, 0], items[:, 1] = needed, options.beams
        return ItemResults(items, -items.astype(np.float32), np.asarray(options.beams >= needed))


@pytest.fixture(scope="module")
def whole(tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that has the graph of the whole search."""
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("whole") / "bundle", tokenizer_path, levels=3))


@pytest.fixture
def model(whole: Bundle) -> OneGraph:
    return OneGraph(whole, SessionOptions())


def requests(widths: Sequence[int], k: int = 2) -> ItemBatch:
    """One request for each width at which it is to be certain."""
    ids = np.stack([np.array(widths), np.full(len(widths), FIRST_TOKEN)], axis=1).astype(np.int64)
    denied = [np.full(width, ITEMS, dtype=np.int64) for width in widths]
    return ItemBatch(Batch(ids, np.zeros_like(ids), np.ones_like(ids)), 0, denied, [None] * len(widths), k)


def search(bundle: Bundle, model: OneGraph, graph: SearchGraph, options: ItemSearchOptions, batch: ItemBatch) -> str:
    """Search, and say by which graphs it was done."""
    found = CatalogSearch(bundle, model, graph).chosen(options)(batch)  # type: ignore[arg-type]
    assert len(found.items) == batch.text.size
    by_steps, by_one = bool(model.shapes), bool(model.runs)
    examined = [None] * batch.text.size if found.exact is None else found.exact.tolist()
    assert [certain is not None for certain in examined] == [by_one, by_one and not by_steps]
    return {(True, False): "one", (False, True): "steps", (True, True): "each its own"}[by_one, by_steps]


def with_lists(denied: int, allowed: int | None) -> ItemBatch:
    """Two requests, one without limits and one with lists of so many items."""
    batch = requests([1, denied])
    own = None if allowed is None else np.full(allowed, 1, dtype=np.int64)
    return ItemBatch(batch.text, 0, batch.denied, [None, own], 2)


@pytest.mark.parametrize(
    ("graph", "options", "denied", "allowed", "by"),
    [
        ("auto", ItemSearchOptions(), 1, None, "one"),
        ("auto", ItemSearchOptions(), LONG_LIST, LONG_LIST, "one"),
        ("auto", ItemSearchOptions(), LONG_LIST + 1, None, "each its own"),
        ("auto", ItemSearchOptions(), 1, LONG_LIST + 1, "each its own"),
        ("auto", OVER_ALL, 1, None, "steps"),
        ("auto", RETRY, LONG_LIST + 1, LONG_LIST + 1, "one"),  # only this graph knows what is certain
        ("one", ItemSearchOptions(), LONG_LIST + 1, LONG_LIST + 1, "one"),
        ("one", RETRY, 1, None, "one"),
        ("steps", ItemSearchOptions(), 1, None, "steps"),
        ("steps", OVER_ALL, 1, None, "steps"),
    ],
)
def test_the_graph_that_can_do_what_is_asked(
    whole: Bundle,
    model: OneGraph,
    graph: SearchGraph,
    options: ItemSearchOptions,
    denied: int,
    allowed: int | None,
    by: str,
) -> None:
    assert search(whole, model, graph, options, with_lists(denied, allowed)) == by


def test_a_long_list_changes_no_neighbours_answer(whole: Bundle, model: OneGraph) -> None:
    batch = requests([1, LONG_LIST + 1, 3, LONG_LIST + 2, 2])
    chosen = CatalogSearch(whole, model, "auto").chosen(ItemSearchOptions(4))  # type: ignore[arg-type]
    together = chosen(batch)
    assert (model.runs, model.shapes) == ([(3, 4)], [(2, 2)])
    assert together.exact is not None and together.exact.tolist() == [True, None, True, None, True]
    for row in range(batch.text.size):
        alone = chosen(batch.rows(np.array([row])))
        assert together.items[row].tolist() == alone.items[0].tolist()
        assert together.scores[row].tolist() == alone.scores[0].tolist()


@pytest.mark.parametrize(("graph", "options"), [("auto", RETRY), ("one", ItemSearchOptions())])
def test_where_only_one_graph_will_do_long_lists_run_alone_up_to_a_length(
    whole: Bundle, model: OneGraph, graph: SearchGraph, options: ItemSearchOptions
) -> None:
    chosen = CatalogSearch(whole, model, graph).chosen(replace(options, beams=LONGEST_LIST))  # type: ignore[arg-type]
    found = chosen(requests([1, LONG_LIST + 1, 3, LONGEST_LIST]))
    assert [size for size, _ in model.runs] == [2, 1, 1] and model.shapes == []
    assert found.items[:, 0].tolist() == [1, LONG_LIST + 1, 3, LONGEST_LIST]
    assert found.exact is not None and found.exact.tolist() == [True] * 4
    with pytest.raises(ConfigError, match=r"4097 items is too long for recommend\.onnx, which takes 4096: leave out"):
        chosen(requests([1, LONGEST_LIST + 1]))


@pytest.mark.parametrize("graph", ["auto", "steps"])
def test_a_bundle_without_the_whole_search_is_searched_in_steps(bundle_path: Path, graph: SearchGraph) -> None:
    bundle = Bundle.load(bundle_path)
    model = OneGraph(bundle, SessionOptions())
    assert search(bundle, model, graph, ItemSearchOptions(), requests([1, 1])) == "steps"


@pytest.mark.parametrize(
    ("graph", "options", "has_graph", "expected"),
    [
        ("one", OVER_ALL, True, "search_graph='one' scores over the catalog only"),
        ("one", ItemSearchOptions(), False, "needs a bundle with recommend.onnx: use search_graph='auto', or export"),
        ("steps", RETRY, True, "exact='retry' and beams='auto' need recommend.onnx: use search_graph='auto'"),
        ("auto", RETRY, False, "exact='retry' and beams='auto' need recommend.onnx"),
    ],
)
def test_what_no_graph_can_do_is_refused(
    whole: Bundle, bundle_path: Path, graph: SearchGraph, options: ItemSearchOptions, has_graph: bool, expected: str
) -> None:
    bundle = whole if has_graph else Bundle.load(bundle_path)
    chooser = CatalogSearch(bundle, OneGraph(bundle, SessionOptions()), graph)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=expected):
        chooser.chosen(options)


def test_an_unknown_choice_is_refused(whole: Bundle, model: OneGraph) -> None:
    with pytest.raises(ConfigError, match="'auto', 'one' or 'steps', not 'both'"):
        CatalogSearch(whole, model, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'auto', 'one' or 'steps', not 'both'"):
        podx.load(whole.path, device="cpu", search_graph="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exact must be 'report' or 'retry', not 'maybe'"):
        ItemSearchOptions(exact="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exact='retry' and beams='auto' need score_over='catalog'"):
        ItemSearchOptions(exact="retry", score_over="vocabulary")


# --- asking again -----------------------------------------------------------------------------------------------------


def retried(bundle: Bundle, model: OneGraph, widths: Sequence[int], options: ItemSearchOptions, k: int) -> ItemResults:
    return CatalogSearch(bundle, model, "auto").chosen(options)(requests(widths, k))  # type: ignore[arg-type]


def test_only_uncertain_requests_are_asked_again(whole: Bundle, model: OneGraph) -> None:
    found = retried(whole, model, [1, 30, 5, 11, 6, 1], ItemSearchOptions(5, exact="retry"), k=2)
    assert model.runs == [(6, 5), (3, 10), (2, 20), (1, 40)]
    assert found.items.tolist() == [[1, 5], [30, 40], [5, 5], [11, 20], [6, 10], [1, 5]]
    np.testing.assert_array_equal(found.scores, -found.items)
    assert found.exact is not None and found.exact.tolist() == [True] * 6


def test_reporting_asks_once(whole: Bundle, model: OneGraph) -> None:
    found = retried(whole, model, [1, 30], ItemSearchOptions(5), k=2)
    assert model.runs == [(2, 5)]
    assert found.exact is not None and found.exact.tolist() == [True, False]


@pytest.mark.parametrize(
    ("beams", "k", "widths"),
    [
        (20, 10, [20, 40, 80, 160, 320]),
        (3, 10, [3, 20, 40, 80, 160, 320]),  # the first is raised to k inside the graph
        (MAX_RETRY_BEAMS, 10, [MAX_RETRY_BEAMS]),
        (MAX_RETRY_BEAMS // 2 + 1, 10, [MAX_RETRY_BEAMS // 2 + 1]),
        (1000, 10, [1000]),
    ],
)
def test_asking_ends_at_the_widest_search(
    whole: Bundle, model: OneGraph, beams: int, k: int, widths: list[int]
) -> None:
    found = retried(whole, model, [1, 2000], ItemSearchOptions(beams, exact="retry"), k)
    assert [width for _, width in model.runs] == [widths[0], *widths]  # the second has a long list and runs alone
    assert found.exact is not None and found.exact.tolist() == [True, False]
    assert found.items[:, 1].tolist() == [widths[0], widths[-1]]


def test_answers_carry_what_is_certain(whole: Bundle, bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Certain(OneGraph):
        def recommend(self, batch: ItemBatch, options: ItemSearchOptions) -> ItemResults:
            size = batch.text.size
            items = np.array([[4, 2, NO_ITEM]] * size)
            return ItemResults(items, np.array([[-1.0, -2.0, -np.inf]] * size), np.arange(size) % 2 == 0)

    monkeypatch.setattr("podx.snapshot.GraphModel", Certain)
    asked = [podx.RecommendRequest(user, ITEM_IDS[:1]) for user in USER_IDS[:3]]
    answers = podx.load(whole.path, device="cpu").recommend_batch(asked, k=3)
    assert [[(a.item, a.score) for a in own] for own in answers] == [[(ITEM_IDS[3], -1.0), (ITEM_IDS[1], -2.0)]] * 3
    assert sorted(own.exact for own in answers) == [False, True, True]
    by_steps = podx.load(bundle_path, device="cpu").recommend_batch(asked, k=3)
    assert [own.exact for own in by_steps] == [None] * 3


def test_some_requests_of_a_batch(whole: Bundle) -> None:
    batch = requests([4, 9, 2])
    kept = batch.rows(np.array([2, 0]))
    assert kept.text.input_ids[:, 0].tolist() == [2, 4] and [len(items) for items in kept.denied] == [2, 4]
    assert (kept.allowed, kept.k, kept.task_id) == ([None, None], 2, 0)
    assert (batch.longest_lists, kept.longest_lists) == ([4, 9, 2], [2, 4])
    allowed = ItemBatch(batch.text, 0, [NONE] * 3, [None, np.arange(12), None], 2)
    assert allowed.longest_lists == [0, 12, 0]
