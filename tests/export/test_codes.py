"""Items written as codes, end to end: train, export, parity with eager PyTorch, recommend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import podx
from podx.requests.types import RankRequest, RecommendRequest
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source
from podx_train.training.train import train_model
from tests.export.conftest import FEW_UPDATES


@pytest.fixture(scope="module")
def bundle(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 items of one to three codes; the walk through them goes on within the second code's order."""
    folder = tmp_path_factory.mktemp("codes")
    codes = tuple((f"<a_{n // 20}>", f"<b_{n % 20}>", *(("<x_0>",) if n % 9 == 0 else ())) for n in range(300))
    coded = dataclasses.replace(world, item_codes=codes)
    options = dataclasses.replace(FEW_UPDATES, targets="all")
    train_model(coded, folder / "checkpoint", options, Source(pieces=170))
    export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=8)  # fails unless the lists agree
    return folder / "bundle"


def test_answers_are_items(bundle: Path, world: Dataset) -> None:
    recommender = podx.load(bundle, device="cpu")
    answers = recommender.recommend_batch([RecommendRequest(user) for user in world.user_ids[:20]], k=10)
    known = set(world.item_ids)
    for number, answer in enumerate(answers, start=1):
        found = [one.item for one in answer]
        assert len(set(found)) == 10 and set(found) <= known
        seen = {world.item_ids[item - 1] for item in world.sequence(number).tolist()}
        assert not seen & set(found)


def test_candidates_and_explanations(bundle: Path, world: Dataset) -> None:
    recommender = podx.load(bundle, device="cpu")
    candidates = world.item_ids[40:60]
    (ranked,) = recommender.rank_batch([RankRequest(world.user_ids[3], candidates)], k=20)
    assert sorted(one.item for one in ranked) == sorted(candidates)
    assert recommender.explain(world.user_ids[3], candidates[0]).text


def test_unconstrained_answers_are_read_as_items(bundle: Path, world: Dataset) -> None:
    recommender = podx.load(bundle, device="cpu")
    answers = recommender.generate_items_batch([RecommendRequest(user) for user in world.user_ids[:20]])
    read = [one.item for answer in answers for one in answer if one.item is not None]
    assert read and set(read) <= set(world.item_ids)
