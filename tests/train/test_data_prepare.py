"""Preparation: k-core, order of time, negatives, held-out explanations, and the real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podx.errors import ConfigError, DataError
from podx_train.data.dataset import Dataset
from podx_train.data.interactions import Interactions, RowCollector
from podx_train.data.negatives import negatives_per_user, sample_negatives
from podx_train.data.numbering import IdScheme, Sequences
from podx_train.data.prepare import HELD_OUT_REASON, Prepared, PrepareOptions, core_mask, prepare
from podx_train.data.readers import read_interactions
from podx_train.data.stats import dataset_stats, leaky_explanations

BEAUTY = (22_363, 12_101, 198_502)  # users, items, interactions, as published
ITEMS, USERS = 150, 60
FEATURES = ("strap", "neck", "tuner", "bridge", "lid")


def world(seed: int = 0, reviews: bool = True, numbered: bool = False) -> Interactions:
    """Users with 5 to 12 distinct items at rising times, in scattered input order."""
    random = np.random.default_rng(seed)
    rows = [
        (user, int(item), time)
        for user in range(USERS)
        for time, item in enumerate(random.choice(ITEMS, size=random.integers(5, 13), replace=False))
    ]
    collector = RowCollector()
    for place in random.permutation(len(rows)) if not numbered else range(len(rows)):
        user, item, time = rows[place]
        collector.users.append(str(user + 1) if numbered else f"u{user}")
        collector.items.append(str(item + 1) if numbered else f"i{item}")
        collector.timestamps.append(float(time))
        collector.reviews.append(f"The {FEATURES[item % len(FEATURES)]} is really good." if reviews else "")
        collector.places.append(f"row {place}")
    return collector.finish("world", timed=not numbered, reviewed=reviews, numbered=numbered)


def make(interactions: Interactions, **options: object) -> Prepared:
    return prepare(interactions, PrepareOptions(**{"min_interactions": 1, **options}))  # type: ignore[arg-type]


def raw_sequences(dataset: Dataset) -> dict[str, list[str]]:
    return {
        name: [dataset.item_ids[item - 1] for item in dataset.sequence(user)]
        for user, name in enumerate(dataset.user_ids, start=1)
    }


def raw_lists(dataset: Dataset, lists: np.ndarray | None) -> dict[str, list[str]]:
    assert lists is not None
    return {
        name: [dataset.item_ids[item - 1] for item in row] for name, row in zip(dataset.user_ids, lists, strict=True)
    }


def raw_records(dataset: Dataset, split: str) -> set[tuple[str, str, str]]:
    return {
        (dataset.user_ids[r.user - 1], dataset.item_ids[r.item - 1], r.explanation) for r in dataset.explanations[split]
    }


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=80, unique=True), st.integers(1, 5)
)
def test_core_is_the_largest_that_satisfies_both_limits(pairs: list[tuple[int, int]], least: int) -> None:
    users, items = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    kept = core_mask(users, items, least)
    left = set(pairs)
    while True:  # one offender at a time, another order than the vectorised filter's
        user_of, item_of = [u for u, _ in left], [i for _, i in left]
        bad = next((p for p in left if user_of.count(p[0]) < max(least, 3) or item_of.count(p[1]) < least), None)
        if bad is None:
            break
        left.remove(bad)
    assert {pair for pair, keep in zip(pairs, kept, strict=True) if keep} == left


def test_sequences_follow_time_whatever_the_input_order() -> None:
    interactions = world()
    for user, items in raw_sequences(make(interactions).dataset).items():
        mine = interactions.users == interactions.user_names.index(user)
        assert interactions.timestamps is not None
        order = np.argsort(interactions.timestamps[mine])
        assert items == [interactions.item_names[code] for code in interactions.items[mine][order]]


@pytest.mark.parametrize("seed", [0, 3])
def test_every_scheme_describes_the_same_raw_data(seed: int) -> None:
    """Same sequences, negatives and explanation splits by raw id; only the numbers differ."""
    first, *others = (make(world(), ids=scheme, seed=seed).dataset for scheme in IdScheme)
    for other in others:
        assert raw_sequences(other) == raw_sequences(first)
        assert raw_lists(other, other.test_negatives) == raw_lists(first, first.test_negatives)
        assert raw_lists(other, other.validation_negatives) == raw_lists(first, first.validation_negatives)
        for split in ("train", "val", "test"):
            assert raw_records(other, split) == raw_records(first, split)
        assert not np.array_equal(other.items, first.items)


def test_negatives_are_distinct_outside_the_sequence_and_fixed_by_seed() -> None:
    dataset, again, other = (make(world(), seed=seed).dataset for seed in (5, 5, 6))
    assert dataset.test_negatives is not None
    assert dataset.validation_negatives is not None
    for lists in (dataset.test_negatives, dataset.validation_negatives):
        assert lists.shape == (USERS, 99)
        for user in range(1, USERS + 1):
            row = set(lists[user - 1].tolist())
            assert len(row) == 99
            assert row.isdisjoint(dataset.sequence(user).tolist())
            assert min(row) >= 1
            assert max(row) <= dataset.item_count
    np.testing.assert_array_equal(dataset.test_negatives, again.test_negatives)
    assert raw_lists(dataset, dataset.test_negatives) != raw_lists(other, other.test_negatives)
    assert not np.array_equal(dataset.test_negatives, dataset.validation_negatives)


def test_negatives_are_drawn_evenly() -> None:
    """Each allowed item is as likely as any other (chi-square, 17 degrees of freedom, far beyond the 99.99 % point)."""
    users = 3000
    sequences = Sequences(
        np.tile(np.array([0, 3], dtype=np.int32), users), np.arange(0, 2 * users + 1, 2, dtype=np.int32), 20
    )
    drawn = sample_negatives(sequences, 5, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=20)
    assert counts[[0, 3]].tolist() == [0, 0]
    expected = 5 * users / 18
    assert ((np.delete(counts, [0, 3]) - expected) ** 2 / expected).sum() < 60


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(5, 8))
def test_negatives_can_use_up_the_whole_catalog(length: int, items: int) -> None:
    codes = np.arange(length, dtype=np.int32)
    sequences = Sequences(codes, np.array([0, length], dtype=np.int32), items)
    count = negatives_per_user(sequences, 99)
    assert count == items - length
    drawn = sample_negatives(sequences, count, np.random.default_rng(0))
    assert sorted(drawn[0].tolist()) == list(range(length, items))


def test_small_catalog_gives_shorter_lists_and_says_so() -> None:
    prepared = make(world(), negatives=1000)
    assert prepared.dataset.test_negatives is not None
    width = prepared.dataset.test_negatives.shape[1]
    assert width == prepared.dataset.item_count - int(prepared.dataset.lengths.max())
    assert f"hold {width} items, not 1000" in prepared.notes[0]


def test_users_who_know_every_item_get_no_lists() -> None:
    collector = RowCollector()
    for user in "ab":
        for item in "xyz":
            collector.users.append(user)
            collector.items.append(item)
            collector.timestamps.append(1.0)
            collector.places.append("row")
    prepared = make(collector.finish("tiny", timed=True, reviewed=False))
    assert prepared.dataset.test_negatives is None
    assert "no negative lists" in prepared.notes[0]


def test_explanations_of_held_out_pairs_never_train() -> None:
    prepared = make(world())
    dataset = prepared.dataset
    assert leaky_explanations(dataset) == 0
    for user in range(1, dataset.user_count + 1):
        pairs = {split: {r.item for r in dataset.explanations[split] if r.user == user} for split in ("val", "test")}
        assert dataset.validation_item(user) in pairs["val"]
        assert dataset.test_item(user) in pairs["test"]
    assert prepared.report.counts[HELD_OUT_REASON] == 2 * USERS


def test_paper_explanations_split_all_pairs_alike() -> None:
    prepared = make(world(), keep_leaky_explanations=True)
    dataset = prepared.dataset
    sizes = {split: len(records) for split, records in dataset.explanations.items()}
    tenth = round(dataset.interaction_count / 10)
    assert sizes == {"train": dataset.interaction_count - 2 * tenth, "val": tenth, "test": tenth}
    assert leaky_explanations(dataset) > USERS  # about 0.8 × 2 per user
    assert HELD_OUT_REASON not in prepared.report.counts


@pytest.mark.parametrize("leaky", [True, False])
def test_each_user_and_item_has_a_training_explanation_where_possible(leaky: bool) -> None:
    dataset = make(world(), keep_leaky_explanations=leaky).dataset
    allowed = dataset.items[dataset.train_mask] if not leaky else dataset.items
    training = dataset.explanations["train"]
    assert {record.user for record in training} == set(range(1, USERS + 1))
    assert {record.item for record in training} == set(allowed.tolist())


def test_interactions_without_review_are_kept_and_counted() -> None:
    prepared = make(world(reviews=False))
    assert prepared.dataset.user_count == USERS
    assert prepared.dataset.explanations == {"train": [], "val": [], "test": []}


def test_tie_shuffle_changes_only_ties() -> None:
    interactions = world()
    assert interactions.timestamps is not None
    plain, distinct = make(interactions).dataset, make(interactions, tie_shuffle=True).dataset
    assert raw_sequences(plain) == raw_sequences(distinct)  # all times differ
    interactions.timestamps[:] = 0
    tied, shuffled, again, other = (
        raw_sequences(make(interactions, tie_shuffle=flag, seed=seed, ids=IdScheme.PAPER).dataset)
        for flag, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    for user, code in zip(interactions.user_names, range(USERS), strict=True):
        in_input = interactions.items[interactions.users == code]
        assert tied[user] == [interactions.item_names[item] for item in in_input]
        assert sorted(shuffled[user]) == sorted(tied[user])
    assert shuffled == again
    assert shuffled != tied
    assert shuffled != other


def test_tie_shuffle_needs_timestamps() -> None:
    with pytest.raises(ConfigError, match="--tie-shuffle needs timestamps"):
        make(world(reviews=False, numbered=True), tie_shuffle=True)


@pytest.mark.parametrize("option", ["min_interactions", "negatives", "seed"])
def test_options_out_of_range_are_named(option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} must be at least"):
        PrepareOptions(**{option: -1})  # type: ignore[arg-type]


def test_core_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match=r"at least 50 interactions.*lower --min-interactions"):
        make(world(), min_interactions=50)


def test_what_the_core_drops_is_reported() -> None:
    prepared = make(world(), min_interactions=3)
    counts, dataset = prepared.report.counts, prepared.dataset
    assert counts["interactions of those users and items"] == len(world()) - dataset.interaction_count
    assert counts["items with too few interactions"] == len(world().item_names) - dataset.item_count
    assert min(np.bincount(dataset.items)[1:]) >= 3


def test_same_seed_same_folder_and_provenance(tmp_path: Path) -> None:
    for name in ("a", "b"):
        options = PrepareOptions(min_interactions=1, seed=4)
        prepare(world(), options, source={"name": "world.csv"}).dataset.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    provenance = Dataset.load(tmp_path / "a").provenance
    assert provenance["source"] == {"name": "world.csv"}
    assert provenance["options"]["seed"] == 4
    assert provenance["options"]["ids"] == "train-first"


def test_beauty_keeps_its_published_counts_and_numbers(shared_data: Path) -> None:
    interactions = read_interactions(shared_data / "Beauty.txt")
    assert interactions.report.total == 0
    prepared = prepare(interactions, PrepareOptions(ids=IdScheme.PAPER))
    dataset = prepared.dataset
    assert (dataset.user_count, dataset.item_count, dataset.interaction_count) == BEAUTY
    assert prepared.report.total == 0
    lines = (shared_data / "Beauty.txt").read_text().splitlines()
    ours = [f"{user} {' '.join(map(str, dataset.sequence(user).tolist()))}" for user in range(1, BEAUTY[0] + 1)]
    assert ours == lines
    assert dataset.item_ids[4711] == "4712"
    paper, clean = dataset_stats(dataset), dataset_stats(prepare(interactions, PrepareOptions()).dataset)
    assert paper.max_plus_one_hr1 == pytest.approx(0.0441, abs=5e-5)
    assert paper.max_plus_one_hr10 == pytest.approx(0.0463, abs=5e-5)
    assert clean.max_plus_one_hr10 < 0.01
    assert paper.near_users_hr10 > 3 * clean.near_users_hr10


def test_real_reviews_become_explanations(shared_data: Path) -> None:
    interactions = read_interactions(shared_data / "reviews" / "musical_instruments_sample.csv")
    dataset = make(interactions, min_interactions=1).dataset
    assert dataset.user_count == 18  # users of the sample with three or more reviews
    records = [record for split in dataset.explanations.values() for record in split]
    assert len(records) > dataset.interaction_count / 2
    assert leaky_explanations(dataset) == 0
    for record in records:
        assert record.feature in record.explanation
