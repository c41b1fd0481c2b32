"""Codes from training interactions: what they find, what they may not see, and their form."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import ArpackNoConvergence
from typer.testing import CliRunner

from podx.errors import ConfigError, DataError
from podx_train.cli.data import app
from podx_train.codes import spectral
from podx_train.codes.code_shares import Shares, last_training_pairs, shares, training_pairs
from podx_train.codes.collaborative import MAX_CODES, Codes, collaborative_codes
from podx_train.codes.options import ClusterOptions, LastCode
from podx_train.codes.places import item_places
from podx_train.data.dataset import Dataset

BLOCKS, BLOCK, UNSEEN = 12, 20, 7
ITEMS = BLOCKS * BLOCK + UNSEEN  # the last ones occur held-out only


def blocks_world(users: int = 400, seed: int = 3) -> Dataset:
    """Users who take five training items of one block each, then two of any, item numbers being mixed."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        block = random.permutation(BLOCK)[:5] + BLOCK * (user % BLOCKS)
        rows.append(np.concatenate((block, random.integers(ITEMS, size=2))))
    mixed = np.random.default_rng(1).permutation(ITEMS) + 1
    items = mixed[np.concatenate(rows)].astype(np.int32)
    offsets = np.arange(0, 7 * users + 1, 7, dtype=np.int32)
    return Dataset(items, offsets, [f"u{n}" for n in range(users)], [f"i{n}" for n in range(ITEMS)])


def block_of_item() -> np.ndarray:
    """Block of item number i + 1; ``BLOCKS`` for the unseen."""
    return np.argsort(np.random.default_rng(1).permutation(ITEMS)) // BLOCK


def codes_of(dataset: Dataset, **options: object) -> Codes:
    return collaborative_codes(dataset.items, dataset.offsets, dataset.item_count, ClusterOptions(**options))


def leaves(codes: Codes) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for item, own in enumerate(codes):
        found.setdefault(own[:-1], []).append(item)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_items_taken_together_share_their_clusters(seed: int) -> None:
    """Every leaf is one planted block, but for a block that k-means, which starts at random, may split in two."""
    codes = codes_of(blocks_world(), clusters=16, leaf_size=27, seed=seed)
    blocks = block_of_item()
    counts = np.array(
        [np.bincount(blocks[members], minlength=BLOCKS + 1)[:BLOCKS] for members in leaves(codes).values()]
    )
    assert len(counts) == BLOCKS
    assert counts.max(axis=1).sum() >= 0.9 * BLOCKS * BLOCK


@pytest.mark.parametrize("dense", [0, 10_000])
def test_blocks_are_found_by_either_way_to_eigenvectors(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "DENSE_NODES", dense)
    codes = codes_of(blocks_world(), clusters=16, leaf_size=27)
    assert len(leaves(codes)) == BLOCKS


def test_blocks_are_found_where_arpack_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise ArpackNoConvergence("no", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(spectral, "DENSE_NODES", 0)
    monkeypatch.setattr(spectral, "eigsh", fail)
    codes = codes_of(blocks_world(), clusters=16, leaf_size=27)
    assert len(leaves(codes)) == BLOCKS


@pytest.mark.parametrize("last", list(LastCode))
def test_held_out_items_change_nothing(last: LastCode) -> None:
    world = blocks_world()
    items = world.items.copy()
    held_out = ~world.train_mask
    items[held_out] = np.random.default_rng(9).integers(1, ITEMS + 1, size=int(held_out.sum()))
    changed = dataclasses.replace(world, items=items)
    assert (changed.items != world.items).sum() > 700
    assert codes_of(changed, last=last) == codes_of(world, last=last)


def test_one_seed_gives_the_same_codes_another_others() -> None:
    world = blocks_world()
    assert codes_of(world, seed=4) == codes_of(world, seed=4)
    assert codes_of(world, seed=4) != codes_of(world, seed=5)


def test_items_without_training_fill_up_the_smallest_leaves() -> None:
    world = blocks_world()
    seen = set(world.items[world.train_mask].tolist())
    found = leaves(codes_of(world, clusters=16, leaf_size=27)).values()
    sizes = [len(members) for members in found]
    unseen = [sum(item + 1 not in seen for item in members) for members in found]
    assert sum(unseen) == UNSEEN
    assert max(size for size, count in zip(sizes, unseen, strict=True) if count) <= min(sizes) + 1


def test_shared_places_follow_popularity() -> None:
    world = blocks_world()
    popularity = np.bincount(world.items[world.train_mask] - 1, minlength=ITEMS)
    codes = codes_of(world, last=LastCode.SHARED, leaf_size=30)
    for members in leaves(codes).values():
        ordered = sorted(members, key=lambda item: int(codes[item][-1][3:-1]))
        assert [codes[item][-1] for item in ordered] == [f"<p_{place}>" for place in range(len(members))]
        assert all(popularity[a] >= popularity[b] for a, b in pairwise(ordered))


def check_form(codes: Codes, count: int, options: ClusterOptions) -> None:
    assert len(codes) == len(set(codes)) == count
    assert max(map(len, codes)) <= MAX_CODES
    assert max(map(len, leaves(codes).values())) <= options.leaf_size
    parents: dict[str, tuple[str, ...]] = {}
    for own in codes:
        for level, code in enumerate(own[:-1]):
            assert parents.setdefault(code, own[:level]) == own[:level]
    if options.last is LastCode.OWN:
        assert len({own[-1] for own in codes}) == count


@settings(max_examples=20, deadline=None)
@given(
    users=st.integers(5, 60),
    items=st.integers(5, 60),
    clusters=st.integers(2, 6),
    leaf_size=st.integers(2, 9),
    fill=st.sampled_from([0.51, 0.75, 1.0]),
    last=st.sampled_from(list(LastCode)),
    seed=st.integers(0, 1000),
)
def test_form_holds_whatever_the_data(
    users: int, items: int, clusters: int, leaf_size: int, fill: float, last: LastCode, seed: int
) -> None:
    """Codes differ, are not too many, name one cluster each, and clusters are not too large."""
    taken = np.random.default_rng(seed).integers(1, items + 1, size=6 * users).astype(np.int32)
    offsets = np.arange(0, 6 * users + 1, 6, dtype=np.int32)
    options = ClusterOptions(clusters, leaf_size, last, fill=fill, seed=seed)
    mask = np.tile([True] * 4 + [False] * 2, users)
    if len(np.unique(taken[mask])) * leaf_size < items:
        with pytest.raises(DataError, match="larger leaf size"):
            collaborative_codes(taken, offsets, items, options)
    else:
        check_form(collaborative_codes(taken, offsets, items, options), items, options)


def test_depth_is_capped_where_two_children_of_two_would_need_more() -> None:
    options = ClusterOptions(clusters=2, leaf_size=2)
    world = blocks_world()
    codes = codes_of(world, clusters=2, leaf_size=2)
    check_form(codes, ITEMS, options)
    assert max(map(len, codes)) == MAX_CODES


def test_progress_reaches_every_item() -> None:
    world, told = blocks_world(), []
    collaborative_codes(world.items, world.offsets, ITEMS, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (ITEMS, ITEMS)


def test_too_little_training_is_an_error() -> None:
    items, offsets = np.array([1, 1, 2, 3], dtype=np.int32), np.array([0, 4], dtype=np.int32)
    with pytest.raises(DataError, match="only 0 of 3 items"):
        collaborative_codes(items, offsets, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"clusters": 1}, {"leaf_size": 1}, {"fill": 0.5}, {"nearness": -1.0}, {"seed": -1}, {"regularisation": -1}],
)
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must"):
        ClusterOptions(**wrong)


def test_edges_count_users_or_weigh_nearness() -> None:
    users, items = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2, 0])
    counted = spectral.cooccurrence(users, items, 4, 0.0).toarray()
    np.testing.assert_allclose(counted, [[0, 1, 2, 0], [1, 0, 1, 0], [2, 1, 0, 0], [0, 0, 0, 0]])
    assert spectral.cooccurrence(users, items, 4, 1.0).toarray()[0, 2] == pytest.approx(1 / 2 + 1)
    near = spectral.cooccurrence(users, items, 4, 0.0, window=1).toarray()
    np.testing.assert_allclose(near, [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_items_taken_together_lie_near_each_other() -> None:
    dataset, block = blocks_world(), block_of_item()
    places = item_places(dataset.items, dataset.offsets, ITEMS, width=BLOCKS, seed=0)
    known = block < BLOCKS
    np.testing.assert_allclose(np.linalg.norm(places[known], axis=1), 1.0)
    assert not places[~known].any()  # held-out interactions are not looked at
    near = places[known] @ places[known].T
    same = block[known][:, None] == block[known][None]
    assert near[same].min() > 0.8 and abs(near[~same]).max() < 0.3
    np.testing.assert_array_equal(places, item_places(dataset.items, dataset.offsets, ITEMS, width=BLOCKS, seed=0))


def test_a_model_may_be_wider_than_the_catalog() -> None:
    items, offsets = np.array([1, 2, 3, 2, 1, 2, 1, 3], dtype=np.int32), np.array([0, 4, 8], dtype=np.int32)
    places = item_places(items, offsets, item_count=3, width=8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), [1, 1, 0], atol=1e-12)


def test_clusters_have_at_most_the_limit() -> None:
    places = np.random.default_rng(0).standard_normal((50, 3))
    places[:40] = places[0]
    labels = spectral.balanced_clusters(places, 5, 11, seed=0)
    assert np.bincount(labels, minlength=5).max() <= 11
    assert set(labels) <= set(range(5))


def test_shares_of_pairs_that_share_codes() -> None:
    codes = [("a", "b", "1"), ("a", "b", "2"), ("a", "c", "1"), ("d", "e", "1")]
    pairs = np.array([[1, 2], [1, 3], [1, 4], [4, 4]], dtype=np.int32)
    assert shares(codes, pairs) == Shares(0.75, 0.5, (3 * 2 + 1 * 2) / 16, (3 * 1 + 1 * 2) / 16)
    assert shares(codes, pairs[:0]) is None


def test_pairs_lie_in_the_training_part() -> None:
    rows = ([1, 2, 3, 4, 5], [6, 7, 8], [9, 8, 7, 6])
    items = np.concatenate(rows).astype(np.int32)
    dataset = Dataset(items, np.array([0, 5, 8, 12], dtype=np.int32), list("abc"), [str(n) for n in range(9)])
    assert training_pairs(dataset).tolist() == [[1, 2], [2, 3], [9, 8]]
    kept, offsets, pairs = last_training_pairs(dataset)
    assert kept.tolist() == [1, 2, 3, 4, 6, 7, 9, 8, 7]
    assert offsets.tolist() == [0, 4, 6, 9]
    assert pairs.tolist() == [[2, 3], [9, 8]]


def test_command_writes_codes_and_says_what_they_are_worth(tmp_path: Path) -> None:
    world = blocks_world()
    world.save(tmp_path / "plain")
    arguments = ["--out", str(tmp_path / "coded"), "--collaborative", "--clusters", "16", "--leaf-size", "27"]
    result = CliRunner().invoke(app, ["index", str(tmp_path / "plain"), *arguments, "--last", "shared", "--seed", "2"])
    assert result.exit_code == 0, result.output
    coded = Dataset.load(tmp_path / "coded")
    expected = codes_of(world, clusters=16, leaf_size=27, last=LastCode.SHARED, seed=2)
    assert coded.item_codes == tuple(expected)
    np.testing.assert_array_equal(coded.items, world.items)
    index = json.loads((tmp_path / "coded" / "dataset.json").read_text())["provenance"]["index"]
    assert index["method"] == "collaborative"
    assert (index["options"]["clusters"], index["options"]["last"], index["options"]["seed"]) == (16, "shared", 2)
    seen = shares(expected, training_pairs(world))
    assert seen is not None and f"{seen.leaf:.4f}" in result.output
    assert "made without the pair" in " ".join(result.output.split())
