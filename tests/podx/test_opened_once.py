"""Sessions that are opened when they are needed: once each, a bounded number, and nobody waits for another's."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from podx.bundle import signature as sig
from podx.graphs import cuda_graph
from podx.graphs.cuda_graph import BATCH_SIZES, CudaGraphRecommender
from podx.graphs.opened_once import OpenedOnce
from podx.graphs.session import SessionOptions

PATIENCE_S = 30.0


class Thing:
    """What is opened."""


def test_each_is_opened_once_whoever_asks() -> None:
    opened: list[int] = []
    everyone_is_here = threading.Barrier(8)

    def open_(key: int) -> Thing:
        opened.append(key)
        return Thing()

    things = OpenedOnce(open_)

    def ask(number: int) -> Thing:
        everyone_is_here.wait(PATIENCE_S)
        return things[number % 2]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert sorted(opened) == [0, 1] and len(set(map(id, found))) == 2


def test_nobody_waits_for_anothers() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def open_(key: str) -> str:
        if key == "slow":
            begun.set()
            assert go_on.wait(PATIENCE_S)
        return key

    things = OpenedOnce(open_, most=2)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(things.__getitem__, "slow")
        assert begun.wait(PATIENCE_S)
        assert pool.submit(things.__getitem__, "quick").result(PATIENCE_S) == "quick"
        assert not slow.done()
        go_on.set()
        assert slow.result(PATIENCE_S) == "slow"


def test_the_one_needed_longest_ago_goes() -> None:
    opened: list[int] = []

    def open_(key: int) -> Thing:
        opened.append(key)
        return Thing()

    things = OpenedOnce(open_, most=2)
    first, gone = things[1], weakref.ref(things[2])
    assert things[1] is first  # so that 2 is the one
    _ = things[3]
    gc.collect()
    assert gone() is None and things[1] is first
    _ = things[2]
    assert opened == [1, 2, 3, 2]


def test_what_could_not_be_opened_is_tried_again() -> None:
    outcomes = iter([OSError("not yet"), "here"])

    def open_(key: int) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    things = OpenedOnce(open_)
    with pytest.raises(OSError, match="not yet"):
        _ = things[1]
    assert things[1] == "here"


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def feeds(users: int) -> dict[str, np.ndarray]:
    shapes = {sig.INPUT_IDS: (users, 5), sig.EXCLUDED_ITEMS: (users, 3), sig.ALLOWED_ITEMS: (users, 0)}
    return {name: np.full(shape, users, dtype=np.int64) for name, shape in shapes.items()}


def test_buckets_are_bounded_and_nobody_waits_while_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    class Fixed:
        def __init__(self, path: Path, options: SessionOptions, dimensions: dict[str, int], held: object) -> None:
            made.append(dimensions["batch"])
            if dimensions["batch"] == BATCH_SIZES[-1]:
                begun.set()
                assert go_on.wait(PATIENCE_S)

        def run(self, padded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"first": padded[sig.INPUT_IDS][:, 0]}

    monkeypatch.setattr(cuda_graph, "FixedSession", Fixed)
    monkeypatch.setattr(cuda_graph, "MOST_SESSIONS", 3)
    recommender = CudaGraphRecommender(Path("nowhere"), SessionOptions())
    for users in (1, 2, 4, 1, 8, 1, 2):
        found = recommender.run(feeds(users))
        assert found is not None and found["first"].tolist() == [users] * users
    assert made == [1, 2, 4, 8, 2], "1 was needed again and again, and 2 longest ago when 8 came"
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(recommender.run, feeds(BATCH_SIZES[-1]))
        assert begun.wait(PATIENCE_S)
        assert pool.submit(recommender.run, feeds(1)).result(PATIENCE_S) is not None
        go_on.set()
        assert slow.result(PATIENCE_S) is not None
