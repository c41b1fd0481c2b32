"""User embeddings by factorisation, and the most similar users."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from podx.errors import ConfigError
from podx_train.data.dataset import Dataset
from podx_train.users.factorisation import FactorisationOptions, Factors, factorise, training_pairs
from podx_train.users.neighbours import nearest_users

GROUPS, USERS_EACH, ITEMS_EACH = 4, 15, 12


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of users who take half of the items of their own group and none of the others'."""
    random = np.random.default_rng(seed)
    pairs = [
        (group * USERS_EACH + user, group * ITEMS_EACH + item)
        for group in range(GROUPS)
        for user in range(USERS_EACH)
        for item in random.choice(ITEMS_EACH, size=ITEMS_EACH // 2, replace=False)
    ]
    users, items = np.array(pairs).T
    return users, items


def solve(width: int = 8, **options: float) -> Factors:
    users, items = planted()
    wanted = FactorisationOptions(width, **options)  # type: ignore[arg-type]
    return factorise(users, items, GROUPS * USERS_EACH, GROUPS * ITEMS_EACH, wanted)


@pytest.mark.parametrize("width", [4, 64])  # fewer and more numbers than a row has partners: two ways to solve
def test_a_users_vector_is_the_best_there_is_for_the_items(width: int) -> None:
    users, items = planted()
    options = FactorisationOptions(width, sweeps=3, confidence=4.0, penalty=0.5)
    found = factorise(users, items, GROUPS * USERS_EACH, GROUPS * ITEMS_EACH, options)
    taken = np.zeros((GROUPS * USERS_EACH, GROUPS * ITEMS_EACH))
    taken[users, items] = 1.0
    vectors = found.items.astype(np.float64)
    for user in (0, 17, 59):
        counts = np.diag(1.0 + 4.0 * taken[user])
        best = np.linalg.solve(vectors.T @ counts @ vectors + 0.5 * np.eye(width), vectors.T @ counts @ taken[user])
        np.testing.assert_allclose(found.users[user], best, atol=2e-4)


def test_users_of_a_planted_group_are_one_anothers_neighbours() -> None:
    found = solve().users
    near = nearest_users(found, np.ones(len(found), dtype=np.bool_), USERS_EACH - 1)
    groups = (near - 1) // USERS_EACH
    assert (groups == (np.arange(len(found)) // USERS_EACH)[:, None]).mean() > 0.95


def test_equal_seeds_give_equal_vectors() -> None:
    first, again, other = solve(), solve(), solve(seed=1)
    np.testing.assert_array_equal(first.users, again.users)
    assert not np.allclose(first.users, other.users)


def test_progress_is_told_after_every_sweep() -> None:
    told: list[tuple[int, int]] = []
    users, items = planted()
    options = FactorisationOptions(4, sweeps=3)
    factorise(users, items, GROUPS * USERS_EACH, GROUPS * ITEMS_EACH, options, lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_held_out_is_looked_at(world: Dataset) -> None:
    users, items = training_pairs(world)
    assert len(users) == world.interaction_count - 2 * world.user_count
    swapped = world.items.copy()
    last = world.offsets[1:] - 1
    swapped[last], swapped[last - 1] = swapped[last - 1], swapped[0]  # other validation and test items
    other = training_pairs(dataclasses.replace(world, items=swapped))
    np.testing.assert_array_equal(np.stack([users, items]), np.stack(other))


def test_an_item_taken_twice_counts_once(world: Dataset) -> None:
    twice = world.items.copy()
    twice[1] = twice[0]
    users, items = training_pairs(dataclasses.replace(world, items=twice))
    assert len(set(zip(users.tolist(), items.tolist(), strict=True))) == len(users)


@pytest.mark.parametrize("change", [{"width": 0}, {"width": 4, "sweeps": 0}, {"width": 4, "penalty": 0.0}])
def test_what_has_no_solution_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FactorisationOptions(**change)  # type: ignore[arg-type]


def by_sorting(vectors: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """Neighbours as the definition has them, one user at a time."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.zeros((len(vectors), count), dtype=np.int32)
    for user in np.flatnonzero(known):
        others = [other for other in np.flatnonzero(known) if other != user]
        others.sort(key=lambda other: (-round(float(unit[other] @ unit[user]), 6), other))
        found[user] = np.array(others[:count]) + 1
    return found


def test_neighbours_are_the_most_similar_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podx_train.users.neighbours.BLOCK_ELEMENTS", 200)  # several blocks, the last one shorter
    random = np.random.default_rng(3)
    vectors = random.normal(size=(57, 5)).astype(np.float32)
    known = random.random(57) > 0.2
    np.testing.assert_array_equal(nearest_users(vectors, known, 6), by_sorting(vectors, known, 6))


def test_ties_are_settled_by_number() -> None:
    vectors = np.repeat(np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32), 5, axis=0)
    vectors[2] *= 3.0  # cosine does not see lengths
    near = nearest_users(vectors, np.ones(10, dtype=np.bool_), 3)
    assert near[0].tolist() == [2, 3, 4] and near[3].tolist() == [1, 2, 3] and near[9].tolist() == [6, 7, 8]


def test_there_are_no_more_neighbours_than_others() -> None:
    vectors = np.eye(4, dtype=np.float32)
    known = np.array([True, True, False, True])
    near = nearest_users(vectors, known, 20)
    assert near.shape == (4, 2)
    assert near[2].tolist() == [0, 0]
    assert set(near[0].tolist()) == {2, 4}
    assert nearest_users(vectors, np.array([True, False, False, False]), 5).shape == (4, 0)
