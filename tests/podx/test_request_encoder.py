"""Requests as tokens and item numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from podx.bundle.bundle import Bundle
from podx.errors import CandidatesError, ConfigError, HistoryError, UnknownItemError, UnknownUserError
from podx.recommender import Recommender
from podx.requests.encoder import RequestEncoder, allowed_row, common_task
from podx.requests.types import ExplainRequest, RankRequest, RecommendRequest
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, Task
from tests.podx.bundles import ITEM_IDS, MAX_HISTORY, USER_IDS, WHOLE_WORD_ROWS, stored_histories

USER = USER_IDS[1]


@pytest.fixture
def encoder(bundle_path: Path) -> RequestEncoder:
    return RequestEncoder(Bundle.load(bundle_path))


@pytest.fixture
def plain(encoder: RequestEncoder) -> InputEncoder:
    """Writes numbers as tokens."""
    return InputEncoder(encoder.inputs.tokenizer, whole_word_rows=WHOLE_WORD_ROWS)


def test_a_history_is_read_and_denied(encoder: RequestEncoder, plain: InputEncoder) -> None:
    request = RecommendRequest(USER, [ITEM_IDS[4], ITEM_IDS[2]], exclude=[ITEM_IDS[8]])
    found, expected = encoder.encode(request), plain.encode(Task.SEQUENTIAL, 2, [5, 3])
    assert found.text.input_ids.tolist() == expected.input_ids.tolist()
    assert found.text.whole_word_ids.tolist() == expected.whole_word_ids.tolist()
    assert (found.task, found.task_id) == (Task.SEQUENTIAL, ALL_TASKS.index(Task.SEQUENTIAL))
    assert found.denied.tolist() == [9, 5, 3] and found.allowed is None
    assert encoder.encode(request, exclude_seen=False).denied.tolist() == [9]
    assert encoder.text(request).input_ids.tolist() == expected.input_ids.tolist()


def test_all_of_a_long_stored_history_is_denied_and_its_end_read(encoder: RequestEncoder, plain: InputEncoder) -> None:
    stored = stored_histories()[0]
    assert len(stored) > MAX_HISTORY
    found = encoder.encode(RecommendRequest(USER_IDS[0], allow=ITEM_IDS[:2]))
    assert found.denied.tolist() == stored
    assert found.text.input_ids.tolist() == plain.encode(Task.SEQUENTIAL, 1, stored[-MAX_HISTORY:]).input_ids.tolist()
    assert found.allowed is not None and found.allowed.tolist() == [1, 2]


def test_candidates_are_read_and_are_all_that_is_allowed(encoder: RequestEncoder, plain: InputEncoder) -> None:
    numbers = list(range(1, MAX_HISTORY + 4))  # more than a history may have
    found = encoder.encode(RankRequest(USER, [ITEM_IDS[n - 1] for n in numbers], exclude=[ITEM_IDS[1]]))
    assert found.text.input_ids.tolist() == plain.encode(Task.TOPN, 2, numbers).input_ids.tolist()
    assert found.allowed is not None and found.allowed.tolist() == numbers
    assert found.denied.tolist() == [2]
    assert found.task_id == ALL_TASKS.index(Task.TOPN)


def test_an_explanation_is_written(encoder: RequestEncoder, plain: InputEncoder) -> None:
    found = encoder.explanation(ExplainRequest(USER, ITEM_IDS[6]))
    assert found.input_ids.tolist() == plain.encode(Task.EXPLANATION, 2, [7]).input_ids.tolist()


def test_no_limit_and_no_item_are_different_rows() -> None:
    assert allowed_row(None).tolist() == []
    assert allowed_row(np.array([], dtype=np.int64)).tolist() == [0]
    row = allowed_row(np.array([4, 2], dtype=np.int32))
    assert row.tolist() == [4, 2, 0] and row.dtype == np.int64


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (RecommendRequest("nobody"), UnknownUserError),
        (RecommendRequest(USER, ["nothing"]), UnknownItemError),
        (RecommendRequest(USER, exclude=["nothing"]), UnknownItemError),
        (RecommendRequest(USER, allow=["nothing"]), UnknownItemError),
        (RecommendRequest(USER, []), HistoryError),
        (RecommendRequest(USER, ITEM_IDS[: MAX_HISTORY + 1]), HistoryError),
        (RankRequest(USER, []), CandidatesError),
    ],
)
def test_what_cannot_be_encoded_is_named(
    request_: RecommendRequest | RankRequest, error: type[Exception], encoder: RequestEncoder
) -> None:
    with pytest.raises(error):
        encoder.encode(request_)


def test_a_recommender_encodes_and_takes_no_mixture(rec: Recommender, encoder: RequestEncoder) -> None:
    requests = [RecommendRequest(USER), RankRequest(USER, ITEM_IDS[:3])]
    found = rec.encode(requests, exclude_seen=False)
    assert [request.task for request in found] == [Task.SEQUENTIAL, Task.TOPN]
    assert found[0].denied.tolist() == [] and allowed_row(found[1].allowed).tolist() == [1, 2, 3, 0]
    assert common_task([]) is Task.SEQUENTIAL
    calls: list[Callable[[], object]] = [
        lambda: rec.recommend_batch(requests),  # type: ignore[arg-type]
        lambda: rec.rank_batch(requests),  # type: ignore[arg-type]
        lambda: rec.generate_items_batch(requests),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="different tasks"):
            call()
