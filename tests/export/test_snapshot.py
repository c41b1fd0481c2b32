"""A loaded recommender is one snapshot of its bundle, and no request changes the answer to another."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest

import podx
from podx.graphs import model
from podx.graphs.catalog_search import LONG_LIST
from podx.recommender import Recommender
from podx_export.catalog.change import CatalogChange
from podx_export.catalog.update import update_bundle

USER, HISTORY = "user-1", ["item-1", "item-8"]
LONG = [f"item-{number % 20}" for number in range(LONG_LIST + 88)]
MANY = [podx.RecommendRequest(f"user-{number}") for number in range(7)]


def usual_answers(recommender: Recommender) -> list[object]:
    """What the graphs answer that are opened at once."""
    return [
        recommender.recommend(USER, HISTORY, k=12),
        recommender.recommend(USER),
        recommender.rank(USER, ["item-3", "item-9", "item-200"]),
        recommender.explain(USER, "item-3"),
    ]


def all_answers(recommender: Recommender) -> list[object]:
    """What any of the bundle's graphs answers."""
    return [
        *usual_answers(recommender),
        recommender.recommend(USER, HISTORY, exclude=LONG),
        recommender.recommend(USER, HISTORY, search=podx.ItemSearchOptions(score_over="vocabulary")),
        recommender.generate_items_batch([podx.RecommendRequest(USER, HISTORY)]),
    ]


@pytest.mark.parametrize("tasks", [None, ["sequential"]])
@pytest.mark.parametrize("change", ["delist", "another bundle", "deletion"])
def test_a_folder_that_changes_changes_nothing(
    trained_bundle: Path, untrained_bundle: Path, tmp_path: Path, tasks: list[str] | None, change: str
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(trained_bundle, path)
    expected = all_answers(podx.load(path, device="cpu", threads=1))
    recommender = podx.load(path, device="cpu", threads=1, tasks=tasks)
    if change == "delist":
        best = [answer.item for answer in recommender.recommend(USER, HISTORY, k=3)]
        update_bundle(path, path, CatalogChange(delist=best))
    elif change == "deletion":
        shutil.rmtree(path)
    else:
        path.rename(tmp_path / "aside")
        shutil.copytree(untrained_bundle, path)
    assert all_answers(recommender) == expected
    if change != "deletion":
        recommender.swap(path)
        assert all_answers(recommender) == all_answers(podx.load(path, device="cpu", threads=1)) != expected


def test_the_first_answers_open_nothing(trained_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = podx.load(trained_bundle, device="cpu", threads=1)
    monkeypatch.delattr(model, "GraphSession")
    assert all(usual_answers(recommender))


def test_a_bundle_that_was_replaced_leaves_memory_at_once(trained_bundle: Path, untrained_bundle: Path) -> None:
    recommender = podx.load(trained_bundle, device="cpu", threads=1)
    all_answers(recommender)
    replaced = [weakref.ref(part) for part in (recommender._snapshot, recommender._snapshot.model, recommender.bundle)]
    gc.disable()  # which finds circles, but not soon
    try:
        recommender.swap(untrained_bundle)
        assert [part() for part in replaced] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_request_with_long_lists_changes_no_neighbours_answer(
    trained_bundle: Path, request: pytest.FixtureRequest, precision: str
) -> None:
    path = trained_bundle if precision == "fp32" else request.getfixturevalue("rounded_bundle")
    recommender = podx.load(path, device="cpu", threads=1)
    requests = [*MANY[:3], podx.RecommendRequest("user-9", exclude=LONG), *MANY[3:]]
    alone = [recommender.recommend_batch([one])[0] for one in requests]
    with podx.Batcher(recommender, max_batch=len(requests)) as batcher:
        prepared = [batcher.prepare(one) for one in requests]
        batcher.enter(prepared)
        together = [waiting.future.result(60) for waiting in prepared]
        assert batcher.stats.batches == 1
    for one, other in zip(together, alone, strict=True):
        assert [answer.item for answer in one] == [answer.item for answer in other]
        assert [answer.score for answer in one] == pytest.approx([answer.score for answer in other], abs=1e-5)
        assert one.exact is other.exact
    assert [answers.exact is None for answers in together] == [False] * 3 + [True] + [False] * 4
