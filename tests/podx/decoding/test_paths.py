"""Cache slots of each beam's path."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podx.decoding.paths import BeamPaths, ReusedSlots


def test_a_beam_sees_its_ancestors_and_nothing_else() -> None:
    paths = BeamPaths(batch=1)
    assert paths.advance().tolist() == [[[0]]]
    paths.follow(np.array([[0, 0]]))
    assert paths.advance().tolist() == [[[1, 0, -1], [1, -1, 0]]]
    paths.follow(np.array([[1, 1, 0]]))
    assert paths.advance().tolist() == [[[2, -1, 1, 0, -1, -1], [2, -1, 1, -1, 0, -1], [2, 1, -1, -1, -1, 0]]]


def test_narrowed_beams_leave_their_slots_behind() -> None:
    paths = BeamPaths(batch=1)
    paths.advance()
    paths.follow(np.array([[0, 0, 0]]))
    paths.advance()
    paths.follow(np.array([[2, 1, 0]]))
    paths.narrow(1)
    assert paths.advance().tolist() == [[[2, -1, -1, 1, 0]]]


def test_users_that_are_kept_keep_their_paths() -> None:
    paths = BeamPaths(batch=2)
    paths.advance()
    paths.follow(np.array([[0, 0], [0, 0]]))
    paths.advance()
    paths.follow(np.array([[0, 0], [1, 1]]))
    paths.keep(np.array([1]))
    assert paths.advance().tolist() == [[[2, -1, 1, 0, -1], [2, -1, 1, -1, 0]]]


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=8), st.integers(0, 2**32))
def test_reused_slots_hold_each_path_and_little_else(batch: int, steps: list[tuple[int, bool]], seed: int) -> None:
    """A cache that is filled as it says holds, for each beam, the marks of its ancestors at their distance."""
    room, most = 2, 4
    random, slots, mark = np.random.default_rng(seed), ReusedSlots(batch, room), 0
    cache = np.zeros((batch, 0), dtype=np.int64)
    paths: list[list[list[int]]] = [[[]] for _ in range(batch)]  # marks of each user's beams, oldest first
    older = 0  # the most slots that the beams of a user have seen so far, those of the step apart
    for beams, leave in [(1, False), *steps]:
        if mark:
            parents = random.integers(len(paths[0]), size=(len(paths), beams))
            paths = [[user[parent] for parent in row] for user, row in zip(paths, parents.tolist(), strict=True)]
            slots.follow(parents)
            if leave and len(paths) > 1:
                kept = np.delete(np.arange(len(paths)), random.integers(len(paths)))
                slots.keep(kept)
                paths, cache = [paths[user] for user in kept], cache[kept]
        own, distance = slots.advance()
        assert distance.shape == (len(paths), beams, slots.width)
        cache = np.pad(cache, ((0, 0), (0, slots.width - cache.shape[1])))
        new = mark + 1 + np.arange(len(paths) * beams).reshape(len(paths), beams)
        mark = int(new.max())
        np.put_along_axis(cache, own, new, axis=1)
        paths = [
            [[*path, own] for path, own in zip(*pair, strict=True)] for pair in zip(paths, new.tolist(), strict=True)
        ]
        ages = range(len(paths[0][0]) - 1, -1, -1)
        for user, beams_of_user in enumerate(paths):
            seen = [[cache[user, distance[user, beam] == age].tolist() for age in ages] for beam in range(beams)]
            assert seen == [[[own] for own in path] for path in beams_of_user]
        older = max(older, *(len({own for path in user for own in path[:-1]}) for user in paths))
        assert slots.width <= older + room * most
