"""Cache slots of each beam's path."""

from __future__ import annotations

import numpy as np

from podx.decoding.paths import BeamPaths


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
