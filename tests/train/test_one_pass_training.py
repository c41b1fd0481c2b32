"""Training by one pass over a user: what is learnt from, how validation ranks, and how it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_train.batches.samplers import one_pass_pool
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.cli.train import summary
from podx_train.codes.one_token import ONE_TOKEN
from podx_train.data.dataset import Dataset
from podx_train.model.item_search import ItemSearch
from podx_train.options import RECIPES, Source, TrainOptions, recipe_options
from podx_train.training.journal import expectation_line
from podx_train.training.loop import TrainResult
from podx_train.training.train import train_model
from tests.train.test_one_pass import CODES, batch_of, make_model

SOURCE = Source(preset="micro", pieces=300, dropout=0.0)


def options(**changes: object) -> TrainOptions:
    fast = {**RECIPES["fast"], "epochs": 12, "batch_size": 16, "warmup": 4, "lr": 5e-3, "validation_users": None}
    return TrainOptions(**{**fast, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    out = tmp_path_factory.mktemp("one-pass") / "checkpoint"
    return out, train_model(world, out, options(), SOURCE)


def test_every_training_position_is_a_target_once(world: Dataset) -> None:
    pool = one_pass_pool(world, max_history=50)
    for record in pool.draw(np.arange(pool.count), np.random.default_rng(0)):
        own = world.train_items(record.user)
        np.testing.assert_array_equal(record.target, own)
        np.testing.assert_array_equal(record.items, own[:-1])
    short = one_pass_pool(world, max_history=3).draw(np.array([4]), np.random.default_rng(0))[0]
    np.testing.assert_array_equal(short.target, [0, *world.train_items(5)[-3:]])
    np.testing.assert_array_equal(short.items, world.train_items(5)[-4:-1])


def test_some_positions_learn_the_item_after_the_next(world: Dataset) -> None:
    plain, skipping = (one_pass_pool(world, max_history=4, skip=skip) for skip in (0.0, 0.3))
    users, taken, places = np.arange(plain.count), 0, 0
    for record, other in zip(
        plain.draw(users, np.random.default_rng(0)), skipping.draw(users, np.random.default_rng(0)), strict=True
    ):
        np.testing.assert_array_equal(record.items, other.items)
        changed = record.target != other.target
        later = np.append(world.train_items(record.user)[-len(record.target) + 1 :], -1)
        assert (other.target[changed] == later[changed]).all() and not changed[-1]
        taken, places = taken + changed.sum(), places + len(changed) - 1
    assert 0.2 < taken / places < 0.4


def test_it_learns_to_rank_and_says_how_well(trained: tuple[Path, TrainResult]) -> None:
    out, result = trained
    first, best = (result.curve[n]["validation_ranking"] for n in (0, result.best_epoch - 1))
    assert best["ndcg_10"] > max(first["ndcg_10"], 3 * best["popularity_ndcg_10"])
    assert result.best_loss == -best["ndcg_10"]
    assert f"validation NDCG@10 {best['ndcg_10']:.4f}" in summary(out, result)
    assert "warning" not in summary(out, result)
    checkpoint = load_checkpoint(out)
    assert checkpoint.config.one_pass and checkpoint.config.scheme == ONE_TOKEN
    assert checkpoint.config.tasks == (Task.SEQUENTIAL,)


def test_it_says_how_long_training_takes() -> None:
    entry = {"train_seconds": 50.0, "validation_seconds": 10.0, "updates": 20}
    line = expectation_line(entry, options(epochs=30, patience=5))
    assert line.startswith("about 1.0 minutes an epoch: 6 minutes in all") and "30 at most" in line
    assert "10 at most" in expectation_line(entry, options(epochs=30, max_updates=200))
    assert "2 minutes in all" in expectation_line(entry, options(epochs=30, max_minutes=2.0))


def test_a_model_below_popularity_is_warned_of(trained: tuple[Path, TrainResult]) -> None:
    out, result = trained
    poor = {**result.curve[0], "validation_ranking": {"ndcg_10": 0.1, "popularity_ndcg_10": 0.2}}
    assert "worse than popularity" in summary(out, dataclasses.replace(result, curve=(poor,)))


def test_resuming_gives_the_same_result(world: Dataset, tmp_path: Path, trained: tuple[Path, TrainResult]) -> None:
    folder, whole = tmp_path / "stopped", trained[1]
    train_model(world, folder, options(epochs=5), SOURCE)
    resumed = train_model(world, folder, options(), SOURCE, resume=True)
    rankings = [[entry["validation_ranking"] for entry in result.curve] for result in (whole, resumed)]
    assert rankings[0] == rankings[1]
    weights = [load_checkpoint(path).model.backbone.shared.weight for path in (trained[0], folder)]
    assert torch.equal(*weights)


def test_items_written_as_codes_stay_as_they_are(world: Dataset, tmp_path: Path) -> None:
    codes = tuple((f"<a_{n % 10}>", f"<i_{n}>") for n in range(world.item_count))
    coded = dataclasses.replace(world, item_codes=codes, scheme="own")
    result = train_model(coded, tmp_path / "coded", options(epochs=1, layer_init="copy", label_smoothing=0.3), SOURCE)
    checkpoint = load_checkpoint(tmp_path / "coded")
    assert checkpoint.config.scheme == "own" and checkpoint.catalog().trie.depth == 2
    assert result.curve[0]["validation_ranking"]["ndcg_10"] >= 0


def test_explanations_are_learnt_beside(world: Dataset, tmp_path: Path) -> None:
    chosen = options(epochs=1, tasks=(Task.SEQUENTIAL, Task.EXPLANATION))
    result = train_model(world, tmp_path / "both", chosen, SOURCE)
    assert set(result.curve[0]["validation_loss"]) == {"sequential", "explanation"}


@pytest.mark.parametrize("kind", CODES)
def test_the_search_finds_the_likeliest_items(kind: str) -> None:
    codes = CODES[kind]
    model = make_model(codes, seed=2)
    history, items = [3, 1], range(1, len(codes) + 1)
    batches = [batch_of(codes, [history], [[0, 0, item]]) for item in items]
    with torch.no_grad():
        losses = torch.cat([model.position_losses(batch) for batch in batches]).numpy()
    denied = torch.tensor([[2, 0]])
    best = ItemSearch(model, beams=20).best(batch_of(codes, [history]), 4, denied)[0].tolist()
    expected = [int(n) + 1 for n in np.argsort(losses, kind="stable") if n + 1 != 2]
    assert best == expected[:4]


def test_conflicts_are_named() -> None:
    with pytest.raises(ConfigError, match="--batching mixed"):
        TrainOptions(targets="pass", batching="mixed")
    one_pass = (
        {"skip": 0.25},
        {"item_init": "cooccurrence"},
        {"layer_init": "copy"},
        {"label_smoothing": 0.1},
        {"ceiling": 0.5},
    )
    for options in one_pass:
        with pytest.raises(ConfigError, match="add --targets pass"):
            TrainOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown --recipe"):
        recipe_options("slow")
