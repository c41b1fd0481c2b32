"""transformers as the oracle of the constrained search, on a thousand users and more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.decoding.items import TokenColumns
from podx.decoding.options import ItemSearchOptions
from podx.graphs.catalog_search import CatalogSearch
from podx.graphs.model import GraphModel
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.templates import Task
from podx_export.verify import samples
from podx_export.verify.parity import SEARCH_GRAPHS, TOP, same_list
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.eager.generation import EagerRecommender, SearchOptions

pytestmark = pytest.mark.usefixtures("planned_memory")

PART = 125


def _pairs(items: np.ndarray, scores: np.ndarray) -> list[tuple[int, float]]:
    return [(int(item), float(score)) for item, score in zip(items, scores, strict=True) if item]


def _compare(
    checkpoint: Path, bundle_path: Path, task: Task, options: ItemSearchOptions, users: int
) -> dict[str, list[bool]]:
    """Whether each user's list is that of transformers, by every graph that can do the search."""
    source, bundle = load_checkpoint(checkpoint), Bundle.load(bundle_path)
    trie, eos = bundle.catalog.trie, bundle.tokenizer.eos_id
    over = None if options.score_over == "vocabulary" else TokenColumns.of_catalog(trie, eos).output_tokens
    eager = EagerRecommender(source.model, source.tokenizer, bundle.catalog, score_tokens=over)
    search = SearchOptions(num_beams=options.beams, length_penalty=options.length_penalty)
    model, task_id = GraphModel(bundle, SessionOptions(threads=1)), bundle.manifest.tasks.index(task)
    able = ("steps",) if options.score_over == "vocabulary" else SEARCH_GRAPHS
    same: dict[str, list[bool]] = {graph: [] for graph in able}
    sample = draw(source, task, users)
    for first in range(0, len(sample), PART):
        part = sample.part(first, PART)
        batch = part.encode(source)
        theirs = eager.recommend(batch, task, search, excluded=part.denied, allowed=part.allowed)
        assert theirs.scores is not None
        for graph in able:
            find = CatalogSearch(bundle, model, graph).chosen(options)
            ours = find(ItemBatch(batch, task_id, part.denied, part.allowed, TOP))
            rows = zip(ours.items, ours.scores, theirs.items, theirs.scores, strict=True)
            same[graph] += [same_list(_pairs(a, b), _pairs(c, d)) for a, b, c, d in rows]
    return same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "score_over", "users"),
    [
        ("trained", "catalog", 8 * PART),
        ("untrained", "catalog", 2 * PART),
        ("trained", "vocabulary", 2 * PART),
        ("untrained", "vocabulary", 2 * PART),
    ],
)
def test_sequential_lists_equal_transformers(
    model: str, score_over: str, users: int, request: pytest.FixtureRequest
) -> None:
    checkpoint, bundle = request.getfixturevalue(model), request.getfixturevalue(f"{model}_bundle")
    same = _compare(checkpoint, bundle, Task.SEQUENTIAL, ItemSearchOptions(score_over=score_over), users)
    assert set(same) == ({"steps", "one"} if score_over == "catalog" else {"steps"})
    for graph, lists in same.items():
        assert (len(lists), sum(lists)) == (users, users), graph


@pytest.mark.slow
@pytest.mark.parametrize(("model", "users", "candidates"), [("untrained", PART, 100), ("trained", 2 * PART, 25)])
def test_topn_lists_equal_transformers(
    model: str, users: int, candidates: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CANDIDATES", candidates)  # time goes with the square of the inputs' length
    checkpoint, bundle = request.getfixturevalue(model), request.getfixturevalue(f"{model}_bundle")
    for graph, lists in _compare(checkpoint, bundle, Task.TOPN, ItemSearchOptions(), users).items():
        assert (len(lists), sum(lists)) == (users, users), graph


@pytest.mark.parametrize(("beams", "penalty"), [(10, 0.0), (12, 2.0), (15, -1.0), (40, 0.5)])
def test_other_widths_and_penalties_equal_transformers(
    beams: int, penalty: float, trained: Path, trained_bundle: Path
) -> None:
    same = _compare(trained, trained_bundle, Task.SEQUENTIAL, ItemSearchOptions(beams, penalty), PART)
    assert same == {"steps": [True] * PART, "one": [True] * PART}


def test_random_requests_never_break_their_limits(trained_bundle: Path) -> None:
    random = np.random.default_rng(17)
    recommender = podx.load(trained_bundle, threads=1)
    catalog = [f"item-{n}" for n in range(300)]
    requests, wanted = [], []
    for user in random.integers(0, 1000, size=2_500):
        drawn = random.choice(catalog, size=60, replace=False).tolist()
        history, exclude, allow = drawn[: random.integers(1, 21)], drawn[20:40], None
        if random.random() < 0.5:
            allow = drawn[random.integers(0, 30) : 60]
        requests.append(podx.RecommendRequest(f"user-{user}", history, exclude, allow))
        permitted = set(allow or catalog) - set(history) - set(exclude)
        wanted.append((permitted, min(10, len(permitted))))
    answers = recommender.recommend_batch(requests, k=10, batch_size=250)
    broken = 0
    for found, (permitted, count) in zip(answers, wanted, strict=True):
        items = [answer.item for answer in found]
        broken += not (set(items) <= permitted and len(set(items)) == len(items) == count)
    assert broken == 0


def test_same_list_tells_ties_from_errors() -> None:
    eager = [(1, -1.0), (2, -2.0), (3, -2.00001), (4, -3.0)]
    assert same_list(eager, eager)
    assert same_list([(1, -1.0), (3, -2.0), (2, -2.00001), (4, -3.0)], eager)
    assert not same_list([(2, -1.0), (1, -2.0), (3, -2.00001), (4, -3.0)], eager)
    assert not same_list([(1, -1.1), (2, -2.0), (3, -2.00001), (4, -3.0)], eager)
    assert not same_list(eager[:3], eager)
