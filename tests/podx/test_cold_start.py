"""Known users of a similar history, and how a user is read that the model does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.bundle.catalog import IdTable
from podx.bundle.users import UserTable
from podx.errors import ConfigError, UnknownUserError
from podx.recommender import Recommender
from podx.requests.cold_start import MOST_SIMILAR, SimilarUsers
from podx.requests.encoder import RequestEncoder
from podx.requests.lookup import Lookup, ResolvedUser
from podx.requests.types import ExplainRequest, RankRequest, RecommendRequest
from tests.podx.bundles import ITEM_IDS, ITEMS, USER_IDS, items_read, stored_histories

NOBODY = np.zeros(0, dtype=np.int64)
MIXED = [stored_histories()[user][0] for user in (2, 3, 4)]
"""Items of several users."""


def table(histories: Sequence[Sequence[int]]) -> UserTable:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return UserTable(IdTable.of([f"u{n}" for n in range(len(histories))], "user"), items, offsets)


def by_definition(histories: Sequence[Sequence[int]], items: Sequence[int], count: int) -> list[int]:
    """Every user compared, as the definition has it."""
    wanted, scored = set(items), []
    for number, history in enumerate(histories, start=1):
        shared = len(wanted & set(history))
        if shared:
            scored.append((-shared / np.sqrt(len(wanted) * len(set(history))), number))
    return [number for _, number in sorted(scored)[:count]]


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_are_those_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    histories = [random.integers(1, 30, size=random.integers(0, 12)).tolist() for _ in range(80)]
    similar = SimilarUsers(table(histories), NOBODY)
    for _ in range(20):
        items = random.integers(1, 40, size=random.integers(1, 9))  # some that nobody has, some twice
        assert similar.nearest(items, 7).tolist() == by_definition(histories, items.tolist(), 7)


def test_excluded_users_are_not_found() -> None:
    histories = [[1, 2], [1, 2], [1]]
    assert SimilarUsers(table(histories), NOBODY).nearest(np.array([1, 2])).tolist() == [1, 2, 3]
    assert SimilarUsers(table(histories), np.array([1])).nearest(np.array([1, 2])).tolist() == [2, 3]


def test_nobody_shares_an_item() -> None:
    assert SimilarUsers(table([[1, 2], []]), NOBODY).nearest(np.array([9])).tolist() == []
    assert SimilarUsers(table([[], []]), NOBODY).nearest(np.array([1])).tolist() == []


def test_no_more_than_twenty_are_read() -> None:
    found = SimilarUsers(table([[1]] * 50), NOBODY).nearest(np.array([1]))
    assert found.tolist() == list(range(1, MOST_SIMILAR + 1))


# --- lookup -----------------------------------------------------------------------------------------------------------


def raw(items: Sequence[int]) -> list[str]:
    return [ITEM_IDS[item - 1] for item in items]


@pytest.fixture
def nearest(bundle_path: Path, fake_model: None) -> Recommender:
    return podx.load(bundle_path, device="cpu", unknown_user="nearest")


def test_a_cold_start_user_is_read_as_the_users_of_the_most_similar_history(bundle_path: Path) -> None:
    encoder = RequestEncoder(Bundle.load(bundle_path), unknown_user="nearest")
    history = MIXED
    expected = by_definition(stored_histories(), history, MOST_SIMILAR)
    assert len(expected) > 2
    request = encoder.encode(RecommendRequest("newcomer", raw(history)))
    assert request.user == "nearest"
    assert (request.text.user, request.text.user_rows) == (expected[0], tuple(expected))
    twin = encoder.encode(RecommendRequest(USER_IDS[expected[0] - 1], raw(history)))
    assert twin.user == "known" and twin.text.user_rows is None
    assert request.text.input_ids.tolist() == twin.text.input_ids.tolist()


def test_a_cold_start_user_of_whom_nothing_is_known_has_no_user_in_the_text(bundle_path: Path) -> None:
    encoder = RequestEncoder(Bundle.load(bundle_path), unknown_user="nearest")
    taken = {item for history in stored_histories() for item in history}
    untouched = [item for item in range(1, ITEMS + 1) if item not in taken][:2]
    assert untouched, "the bundle needs an item that nobody has"
    request = encoder.encode(RecommendRequest("newcomer", raw(untouched)))
    assert request.user == "mean" and request.text.prompt_rows == (0,)
    known = encoder.encode(RecommendRequest(USER_IDS[0], raw(untouched)))
    assert len(request.text) < len(known.text)
    assert request.text.whole_word_ids.max() == 2 and known.text.whole_word_ids.max() == 3


def test_a_batch_has_rows_only_where_someone_is_read_otherwise(bundle_path: Path) -> None:
    encoder = RequestEncoder(Bundle.load(bundle_path), unknown_user="nearest")
    history = raw(MIXED)
    known = encoder.encode(RecommendRequest(USER_IDS[4])).text
    newcomer = encoder.encode(RecommendRequest("newcomer", history)).text
    assert encoder.inputs.collate([known]).user_rows is None
    batch = encoder.inputs.collate([known, newcomer])
    assert batch.user_rows is not None and batch.users is not None
    assert batch.user_rows[0].tolist() == [5] + [-1] * (len(newcomer.prompt_rows) - 1)
    assert batch.user_rows[1].tolist() == list(newcomer.prompt_rows)
    part = batch.rows([1])
    assert part.user_rows is not None and part.user_rows.tolist() == [list(newcomer.prompt_rows)]


def test_the_answer_says_how_the_user_was_read(nearest: Recommender, rec: Recommender) -> None:
    history = raw(MIXED)
    requests = [RecommendRequest("newcomer", history), RecommendRequest(USER_IDS[1])]
    assert [found.user for found in nearest.recommend_batch(requests, k=3)] == ["nearest", "known"]
    assert rec.recommend(USER_IDS[1], k=3).user == "known"


def test_a_batcher_serves_cold_start_users(nearest: Recommender) -> None:
    history = raw(MIXED)
    with podx.Batcher(nearest) as batcher:
        found = batcher.recommend("newcomer", history, k=3)
    assert found.user == "nearest" and list(found) == list(nearest.recommend("newcomer", history, k=3))


def test_without_the_option_or_a_history_a_cold_start_user_is_an_error(nearest: Recommender, rec: Recommender) -> None:
    history = raw(MIXED)
    with pytest.raises(UnknownUserError, match="unknown_user='nearest' and pass the user's history"):
        rec.recommend("newcomer", history)
    for call in (
        lambda: nearest.recommend("newcomer"),
        lambda: nearest.rank("newcomer", history),
        lambda: nearest.explain_batch([ExplainRequest("newcomer", history[0])]),
        lambda: nearest.encode([RankRequest("newcomer", history)]),
        lambda: nearest.encode([RecommendRequest("newcomer")]),
    ):
        with pytest.raises(UnknownUserError, match="pass the user's history with the request"):
            call()
    assert items_read(nearest.encode([RecommendRequest("newcomer", history)])[0]) == 3


def test_an_unknown_policy_is_refused(bundle_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown_user must be 'error' or 'nearest', not 'guess'"):
        podx.load(bundle_path, device="cpu", unknown_user="guess")  # type: ignore[arg-type]


def test_known_users_without_vectors_are_read_by_those_who_have_some(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    own = bundle.users
    partial = UserTable(own.ids, own.items, own.offsets, np.array([3, 5], dtype=np.int32))
    partial.save(tmp_path / "users.bin")
    bundle.__dict__["users"] = UserTable.load(tmp_path / "users.bin")
    expected = [user for user in by_definition(stored_histories(), MIXED, 99) if user not in (3, 5)]
    assert len(expected) < len(by_definition(stored_histories(), MIXED, 99))
    lookup = Lookup(bundle, "error", "nearest")
    assert lookup.resolve_user("nobody", np.array(MIXED)) == ResolvedUser(expected[0], tuple(expected), "nearest")
    assert lookup.resolve_user(USER_IDS[2], np.array(MIXED)) == ResolvedUser(3, tuple(expected), "nearest")
    by_own = [user for user in by_definition(stored_histories(), stored_histories()[2], 99) if user not in (3, 5)]
    assert lookup.resolve_user(USER_IDS[2]).rows == (tuple(by_own) or (0,))
    assert Lookup(bundle, "error").resolve_user(USER_IDS[2]) == ResolvedUser(3, (0,), "mean")
    assert Lookup(bundle, "error").resolve_user(USER_IDS[1]) == ResolvedUser(2, (2,), "known")
