from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_train.batches.samplers import (
    NEGATIVES,
    ItemTargets,
    draw_negatives,
    draw_segments,
    evaluation_candidates,
    evaluation_pool,
    evaluation_topn,
    training_pool,
)
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.data.explanations import EXPLANATION_TOKENS


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_dataset(lengths: list[int], items: int = 130) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.arange(1, length + 1) for length in lengths]).astype(np.int32)
    users = [f"u{n}" for n in range(len(lengths))]
    return Dataset(flat, offsets, users, [f"i{n}" for n in range(items)])


def pool_of(task: Task, dataset: Dataset, catalog, tokenizer, max_history: int = 20, mode: str = "segment"):
    return training_pool(task, dataset, catalog, tokenizer, max_history, mode)


def test_segments_are_uniform_within_their_bounds() -> None:
    length, draws = 7, 40_000
    start, end = draw_segments(np.full(draws, length), rng())
    assert set(start) == {0, 1, 2, 3}
    assert end.max() == length - 3
    assert (end > start).all()
    shares = Counter(start.tolist())
    assert all(abs(shares[s] / draws - 1 / 4) < 0.01 for s in range(4))
    from_one = Counter(end[start == 1].tolist())
    assert sorted(from_one) == [2, 3, 4]
    assert all(abs(count / from_one.total() - 1 / 3) < 0.02 for count in from_one.values())


def test_shortest_sequences(catalog, tokenizer) -> None:
    dataset = make_dataset([3, 4, 5])
    sequential = pool_of(Task.SEQUENTIAL, dataset, catalog, tokenizer)
    assert sequential.count == 2  # the user with three items has no pair to learn from
    record = sequential.draw(np.array([0]), rng())[0]
    assert (record.user, record.items.tolist()) == (2, [1])
    assert record.target.tolist() == [*tokenizer.encode("2"), tokenizer.eos_id]
    topn = pool_of(Task.TOPN, dataset, catalog, tokenizer)
    assert topn.count == 3
    assert topn.draw(np.array([0]), rng())[0].target.tolist() == [*tokenizer.encode("1"), tokenizer.eos_id]


@pytest.mark.parametrize("mode", ["segment", "all"])
def test_sequential_records_never_hold_what_is_held_out(catalog, tokenizer, mode: str) -> None:
    dataset = make_dataset([30, 9, 12])
    targets = ItemTargets(catalog, tokenizer.eos_id)
    pool = pool_of(Task.SEQUENTIAL, dataset, catalog, tokenizer, max_history=5, mode=mode)
    for seed in range(30):
        for record in pool.draw(np.arange(pool.count), rng(seed)):
            length = len(dataset.sequence(record.user))
            assert 1 <= len(record.items) <= 5
            assert (np.diff(record.items) == 1).all()
            assert record.items[-1] < length - 2
            assert record.target.tolist() == targets[int(record.items[-1]) + 1].tolist()


def test_long_segments_keep_their_last_items(catalog, tokenizer) -> None:
    dataset = make_dataset([60])
    pool = pool_of(Task.SEQUENTIAL, dataset, catalog, tokenizer, max_history=20)
    lengths = [len(pool.draw(np.array([0]), rng(seed))[0].items) for seed in range(300)]
    assert max(lengths) == 20
    assert lengths.count(20) > 50


def test_all_targets_pass_every_training_position_once(catalog, tokenizer) -> None:
    dataset = make_dataset([5, 4, 9, 3])
    pool = pool_of(Task.SEQUENTIAL, dataset, catalog, tokenizer, mode="all")
    seen = sorted((r.user, int(r.items[-1]) + 1) for r in pool.draw(np.arange(pool.count), rng()))
    # items of these users are their positions, from 1; the first is never a target, the last two are held out
    assert seen == [(1, 2), (1, 3), (2, 2), *[(3, item) for item in range(2, 8)]]


def test_topn_candidates(world, catalog, tokenizer) -> None:
    targets = ItemTargets(catalog, tokenizer.eos_id)
    pool = pool_of(Task.TOPN, world, catalog, tokenizer)
    places = []
    for record in pool.draw(np.arange(world.user_count), rng()):
        assert len(record.items) == len(set(record.items.tolist())) == NEGATIVES + 1
        own = [i for i in record.items.tolist() if i in world.sequence(record.user)]
        assert len(own) == 1
        assert own[0] in world.train_items(record.user)
        assert record.target.tolist() == targets[own[0]].tolist()
        places.append(record.items.tolist().index(own[0]))
    assert len(set(places)) > 20


def test_topn_target_is_uniform_over_training_items(catalog, tokenizer) -> None:
    dataset = make_dataset([6])
    pool = pool_of(Task.TOPN, dataset, catalog, tokenizer)
    drawn = Counter(
        next(i for i in record.items.tolist() if i <= 6) for record in pool.draw(np.zeros(4000, dtype=np.int64), rng())
    )
    assert sorted(drawn) == [1, 2, 3, 4]
    assert all(abs(count / 4000 - 0.25) < 0.04 for count in drawn.values())


def test_negatives_cover_what_is_left_uniformly() -> None:
    seen = np.array([2, 3, 3])
    drawn = Counter(n for seed in range(3000) for n in draw_negatives(seen, 10, 4, rng(seed)).tolist())
    assert sorted(drawn) == [1, 4, 5, 6, 7, 8, 9, 10]
    assert all(abs(count / 3000 - 0.5) < 0.06 for count in drawn.values())


def test_negatives_of_a_small_catalog_are_all_there_is() -> None:
    assert sorted(draw_negatives(np.array([1, 5]), 6, 99, rng()).tolist()) == [2, 3, 4, 6]


def test_explanations_are_cut(world, catalog, tokenizer) -> None:
    long = ExplanationRecord(1, 2, "well " * 60, "well")
    dataset = dataclasses.replace(world, explanations={"train": [long], "val": [], "test": []})
    pool = pool_of(Task.EXPLANATION, dataset, catalog, tokenizer)
    (record,) = pool.draw(np.array([0]), rng())
    assert record.items.tolist() == [2]
    assert len(record.target) == EXPLANATION_TOKENS + 1
    assert record.target[-1] == tokenizer.eos_id


def test_draws_depend_on_the_seed_alone(world, catalog, tokenizer) -> None:
    for task in (Task.SEQUENTIAL, Task.TOPN):
        pool = pool_of(task, world, catalog, tokenizer)
        indices = np.arange(pool.count)
        first, again, other = (pool.draw(indices, rng(seed)) for seed in (1, 1, 2))
        assert all(np.array_equal(a.items, b.items) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a.items, b.items) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_records(world, catalog, tokenizer, split: str) -> None:
    targets = ItemTargets(catalog, tokenizer.eos_id)
    held_out = world.validation_item if split == "validation" else world.test_item
    pool = evaluation_pool(Task.SEQUENTIAL, world, catalog, tokenizer, 4, split)
    for record in pool.draw(np.arange(world.user_count), rng()):
        assert record.items.tolist() == world.history(record.user, split)[-4:].tolist()
        assert record.target.tolist() == targets[held_out(record.user)].tolist()
    pool = evaluation_pool(Task.TOPN, world, catalog, tokenizer, 4, split)
    for record in pool.draw(np.arange(5), rng()):
        assert held_out(record.user) in record.items
        assert record.items.tolist() == evaluation_topn(world, record.user, split).tolist()
    assert evaluation_pool(Task.EXPLANATION, world, catalog, tokenizer, 4, split).count == 9


def test_fixed_candidates_come_from_the_dataset_and_keep_their_order(world) -> None:
    negatives = np.full((world.user_count, 1), 0, dtype=np.int32)
    for user in range(1, world.user_count + 1):
        negatives[user - 1] = next(i for i in range(1, 131) if i not in world.sequence(user))
    dataset = dataclasses.replace(world, test_negatives=negatives)
    for user in (1, 2, 3):
        expected = {world.test_item(user), int(negatives[user - 1, 0])}
        assert set(evaluation_topn(dataset, user, "test").tolist()) == expected
    lists = [evaluation_candidates(5, np.arange(10, 60), user, "test").tolist() for user in (1, 1, 2)]
    assert lists[0] == lists[1] != lists[2]


def test_unknown_modes(world, catalog, tokenizer) -> None:
    with pytest.raises(ConfigError, match="segment, all or pass"):
        pool_of(Task.SEQUENTIAL, world, catalog, tokenizer, mode="some")
    with pytest.raises(ConfigError, match="validation or test"):
        evaluation_pool(Task.TOPN, world, catalog, tokenizer, 20, "train")
