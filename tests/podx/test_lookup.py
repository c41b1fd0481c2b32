"""Requests that cannot be answered: each has its error, which says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import podx
from podx.errors import (
    CandidatesError,
    ConfigError,
    HistoryError,
    PodxError,
    RequestError,
    UnknownItemError,
    UnknownUserError,
    UnsupportedTaskError,
)
from podx.recommender import Recommender
from podx.requests.types import RankRequest, RecommendRequest
from podx.text.templates import Task
from tests.podx.bundles import ITEM_IDS, MAX_HISTORY, USER_IDS, WHOLE_WORD_ROWS, write_bundle

USER = USER_IDS[1]
NEWCOMER = USER_IDS[-1]
HISTORY = ITEM_IDS[:4]

pytestmark = pytest.mark.usefixtures("fake_model")


@dataclass(frozen=True)
class Faulty:
    """A call and the error it must give."""

    call: Callable[[Recommender], object]
    error: type[PodxError]
    message: str


TOO_MANY = ITEM_IDS[: WHOLE_WORD_ROWS - 1]
FAULTY = {
    "unknown user": Faulty(lambda r: r.recommend("nobody", HISTORY), UnknownUserError, "'nobody' is not among the 12"),
    "unknown user, rank": Faulty(lambda r: r.rank("nobody", HISTORY), UnknownUserError, "nobody"),
    "unknown user, explain": Faulty(lambda r: r.explain("nobody", ITEM_IDS[0]), UnknownUserError, "nobody"),
    "half a character": Faulty(lambda r: r.recommend("\ud800", HISTORY), UnknownUserError, "not among"),
    "unknown in history": Faulty(lambda r: r.recommend(USER, ["B001", "x"]), UnknownItemError, "1 of 2 items .*'x'"),
    "unknown in exclude": Faulty(lambda r: r.recommend(USER, HISTORY, exclude=["x"]), UnknownItemError, "'x'"),
    "unknown in allow": Faulty(lambda r: r.recommend(USER, HISTORY, allow=["x"]), UnknownItemError, "'x'"),
    "unknown candidate": Faulty(lambda r: r.rank(USER, ["x"]), UnknownItemError, "'x'"),
    "unknown item, explain": Faulty(lambda r: r.explain(USER, "x"), UnknownItemError, "'x'"),
    "a number for a user": Faulty(lambda r: r.recommend(7, HISTORY), UnknownUserError, "user 7 is not"),  # type: ignore[arg-type]
    "a text for a list": Faulty(lambda r: r.recommend(USER, "B001"), RequestError, r"pass \['B001'\]"),
    "empty history": Faulty(lambda r: r.recommend(USER, []), HistoryError, "is empty: pass at least one item"),
    "no known history": Faulty(lambda r: r.recommend(NEWCOMER), HistoryError, "no history is known of user 'Zoë'"),
    "long history": Faulty(
        lambda r: r.recommend(USER, ITEM_IDS[: MAX_HISTORY + 1]), HistoryError, "has 6 items, the model reads 5"
    ),
    "no candidates": Faulty(lambda r: r.rank(USER, []), CandidatesError, "empty"),
    "repeated candidate": Faulty(lambda r: r.rank(USER, ["B001", "B001"]), CandidatesError, "twice"),
    "too many candidates": Faulty(lambda r: r.rank(USER, TOO_MANY), CandidatesError, "at most 30: split"),
    "k": Faulty(lambda r: r.recommend(USER, HISTORY, k=0), ConfigError, "k must be at least 1"),
    "k, unconstrained": Faulty(
        lambda r: r.generate_items_batch([RecommendRequest(USER)], k=0), ConfigError, "k must be at least 1"
    ),
    "batch size": Faulty(
        lambda r: r.recommend_batch([RecommendRequest(USER)], batch_size=0), ConfigError, "batch_size must be at least"
    ),
    "two tasks": Faulty(
        lambda r: r.generate_items_batch([RecommendRequest(USER), RankRequest(USER, HISTORY)]),  # type: ignore[list-item]
        ConfigError,
        "different tasks",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_has_its_error(rec: Recommender, name: str) -> None:
    with pytest.raises(FAULTY[name].error, match=FAULTY[name].message):
        FAULTY[name].call(rec)


def test_as_many_candidates_as_the_model_reads_are_fine(rec: Recommender) -> None:
    assert len(rec.rank(USER, TOO_MANY[:-1], k=5)) == 5


@pytest.mark.parametrize(
    ("trained", "call"),
    [
        (Task.TOPN, lambda r: r.recommend(USER, HISTORY)),
        (Task.SEQUENTIAL, lambda r: r.rank(USER, HISTORY)),
        (Task.SEQUENTIAL, lambda r: r.explain(USER, ITEM_IDS[0])),
    ],
)
def test_tasks_the_model_was_not_trained_for_are_named(
    tmp_path: Path, tokenizer_path: Path, trained: Task, call: Callable[[Recommender], object]
) -> None:
    rec = podx.load(write_bundle(tmp_path / "bundle", tokenizer_path, tasks=[trained]), device="cpu")
    with pytest.raises(UnsupportedTaskError, match=f"only {trained}.*train one with --tasks {trained},"):
        call(rec)


def test_an_unknown_way_with_long_histories_is_refused(bundle_path: Path) -> None:
    with pytest.raises(ConfigError, match="long_history"):
        podx.load(bundle_path, long_history="cut")  # type: ignore[arg-type]
