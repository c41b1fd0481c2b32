"""Where each beam's path lies in the cache."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from podx.decoding.paths import BeamPaths, BeamRows


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


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=8), st.integers(1, 5), st.integers(0, 2**32))
def test_a_row_holds_the_whole_path(batch: int, steps: list[bool], beams: int, seed: int) -> None:
    """A cache that is copied and filled as it says holds each beam's ancestors, and nothing is copied that is there."""
    random, rows, mark = np.random.default_rng(seed), BeamRows(batch), batch
    cache = np.full((batch, beams, len(steps) + 1), -1)
    cache[:, 0, 0] = np.arange(batch)
    assert not len(rows.follow(None)[0])
    paths = [[[mark]] for mark in range(batch)]  # of each user's beams, oldest first
    for step, leave in enumerate(steps, start=1):
        parents = random.integers(len(paths[0]), size=(len(paths), beams))
        user, source, row, copied = rows.follow(parents)
        assert np.array_equal(np.sort(rows.row, axis=1), np.broadcast_to(np.arange(beams), rows.row.shape))
        old = cache[user, source, copied]
        assert (old != cache[user, row, copied]).all()
        assert len(set(zip(user, row, strict=True))) <= sum(beams - len(set(row)) for row in parents.tolist())
        cache[user, row, copied] = old
        marks = np.arange(mark, mark + len(paths) * beams).reshape(-1, beams)
        mark += marks.size
        cache[np.arange(len(paths))[:, None], rows.row, step] = marks
        paths = [
            [[*old[parent], mark] for parent, mark in zip(*pair, strict=True)]
            for old, *pair in zip(paths, parents.tolist(), marks.tolist(), strict=True)
        ]
        if leave and len(paths) > 1:
            kept = np.delete(np.arange(len(paths)), random.integers(len(paths)))
            rows.keep(kept)
            paths, cache = [paths[user] for user in kept], cache[kept]
        found = cache[np.arange(len(paths))[:, None], rows.row, : step + 1]
        assert found.tolist() == paths
