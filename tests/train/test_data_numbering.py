"""ID schemes: bijections, what each order is made of, and that the training order tells nothing of held-out items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podx_train.data.numbering import IdScheme, Numbering, Sequences, number_ids

SHUFFLED_USERS = 200


def sequences_of(rows: list[list[int]]) -> Sequences:
    """Sequences with item codes made gapless in order of the code."""
    distinct, codes = np.unique(np.concatenate(rows), return_inverse=True)
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int32)
    return Sequences(codes.astype(np.int32), offsets, len(distinct))


def number(sequences: Sequences, scheme: IdScheme, numbered: bool = False, seed: int = 0) -> Numbering:
    return number_ids(sequences, scheme, numbered, np.random.default_rng(seed))


rows_strategy = st.lists(
    st.lists(st.integers(0, 30), min_size=3, max_size=9, unique=True), min_size=1, max_size=12
).map(sequences_of)


@given(rows_strategy, st.sampled_from(IdScheme), st.booleans())
def test_every_scheme_is_a_bijection(sequences: Sequences, scheme: IdScheme, numbered: bool) -> None:
    numbering = number(sequences, scheme, numbered)
    assert sorted(numbering.users.tolist()) == list(range(sequences.user_count))
    assert sorted(numbering.items.tolist()) == list(range(sequences.item_count))


@given(rows_strategy)
def test_train_first_numbers_training_items_before_held_out_only_ones(sequences: Sequences) -> None:
    numbering = number(sequences, IdScheme.TRAIN_FIRST)
    training = set(sequences.training_part().items.tolist())
    assert set(numbering.items[: len(training)].tolist()) == training


@given(rows_strategy)
def test_train_first_numbers_items_in_the_walking_order_of_users(sequences: Sequences) -> None:
    numbering = number(sequences, IdScheme.TRAIN_FIRST)
    walk = sequences.training_part().take(numbering.users).items.tolist()
    seen = list(dict.fromkeys(walk))
    assert numbering.items[: len(seen)].tolist() == seen


@given(rows_strategy, st.randoms(use_true_random=False))
def test_train_first_users_and_training_items_ignore_who_got_which_held_out_item(sequences: Sequences, random) -> None:
    """Exchange held-out items between users: the order of users and of training items stays."""
    held_out = np.flatnonzero(~np.isin(np.arange(len(sequences.items)), _training_places(sequences)))
    exchanged = sequences.items.copy()
    order = held_out.tolist()
    random.shuffle(order)
    exchanged[held_out] = sequences.items[order]
    other = Sequences(exchanged, sequences.offsets, sequences.item_count)
    first, second = number(sequences, IdScheme.TRAIN_FIRST), number(other, IdScheme.TRAIN_FIRST)
    np.testing.assert_array_equal(first.users, second.users)
    np.testing.assert_array_equal(first.items, second.items)


def _training_places(sequences: Sequences) -> np.ndarray:
    starts, ends = sequences.offsets[:-1], sequences.offsets[1:]
    return np.concatenate([np.arange(a, b - 2) for a, b in zip(starts, ends, strict=True)])


def test_train_first_puts_users_of_a_common_training_item_side_by_side() -> None:
    own = [
        [[100 + 10 * group, 1000 + 3 * n, 1001 + 3 * n] for n in range(5 * group, 5 * group + 5)] for group in range(4)
    ]
    rows = [rows_of_group[n] for n in range(5) for rows_of_group in own]  # group g has users g, g + 4, g + 8, …
    users = number(sequences_of(rows), IdScheme.TRAIN_FIRST).users
    groups = (users % 4).reshape(4, 5)
    assert (groups == groups[:, :1]).all()


def test_paper_scheme_numbers_by_first_appearance_in_full_sequences() -> None:
    sequences = sequences_of([[5, 3, 9, 1], [3, 7, 5, 2]])
    numbering = number(sequences, IdScheme.PAPER)
    assert numbering.users.tolist() == [0, 1]
    codes = {item: code for code, item in enumerate([1, 2, 3, 5, 7, 9])}
    assert numbering.items.tolist() == [codes[item] for item in (5, 3, 9, 1, 7, 2)]


def test_paper_scheme_keeps_numbers_that_are_there() -> None:
    numbering = number(sequences_of([[5, 3, 9, 1], [3, 7, 5, 2]]), IdScheme.PAPER, numbered=True)
    assert numbering.items.tolist() == list(range(6))


def test_shuffled_scheme_keeps_no_order() -> None:
    rows = [[4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3] for n in range(SHUFFLED_USERS)]
    numbering = number(sequences_of(rows), IdScheme.SHUFFLED)
    for order in (numbering.users, numbering.items):
        rising = (np.diff(order) > 0).mean()
        assert 0.3 < rising < 0.7
        assert (np.diff(order) == 1).mean() < 0.05


@pytest.mark.parametrize("scheme", [IdScheme.SHUFFLED, IdScheme.TRAIN_FIRST])
def test_seed_fixes_the_numbers(scheme: IdScheme) -> None:
    sequences = sequences_of([[n, n + 7, n + 13, n + 29] for n in range(40)])
    first, again, other = (number(sequences, scheme, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.items, again.items)
    np.testing.assert_array_equal(first.users, again.users)
    assert not np.array_equal(first.items, other.items)


def test_take_reorders_users_with_their_items() -> None:
    taken = sequences_of([[0, 1, 2], [3, 4, 5, 6], [1, 5, 0]]).take(np.array([1, 2, 0]))
    assert taken.items.tolist() == [3, 4, 5, 6, 1, 5, 0, 0, 1, 2]
    assert taken.offsets.tolist() == [0, 4, 7, 10]
    assert taken.users.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
