"""The facade over a fake model: answers, batches, and promises that hold for any model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.bundle.signature import DECODER_FILE, ENCODER_FILE, ITEM_DECODER_FILE, RECOMMEND_FILE
from podx.decoding.items import TokenColumns
from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.decoding.text import Hypothesis
from podx.errors import ConfigError, UnsupportedTaskError
from podx.graphs.session import SessionOptions
from podx.recommender import Recommender
from podx.requests.types import ExplainRequest, GeneratedItem, RankRequest, Recommendation, RecommendRequest
from podx.snapshot import TRIAL_USERS
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from tests.podx.bundles import ITEM_IDS, ITEMS, MAX_HISTORY, USER_IDS, WHOLE_WORD_ROWS, stored_histories, write_bundle
from tests.podx.fakes import FakeGraphModel, PathModel, input_seeds
from tests.podx.references import exhaustive

USER = USER_IDS[1]
READER = USER_IDS[0]
HISTORY = ITEM_IDS[:4]
pytestmark = pytest.mark.usefixtures("fake_model")

SHORT_TEXT = TextSearchOptions(beams=4, groups=2, diversity_penalty=0.5, min_length=3, max_length=8)
NARROW = ItemSearchOptions(beams=4)


def items_of(answers: list[Recommendation]) -> list[str]:
    return [answer.item for answer in answers]


# --- answers --------------------------------------------------------------------------------------------------------


def test_answers_are_the_best_permitted_items(rec: Recommender) -> None:
    bundle = rec.bundle
    encoder = InputEncoder(bundle.tokenizer, whole_word_rows=WHOLE_WORD_ROWS)
    record = encoder.encode(Task.SEQUENTIAL, USER_IDS.index(USER) + 1, [1, 2, 3, 4])
    seed = int(input_seeds(encoder.collate([record]), bundle.manifest.tasks.index(Task.SEQUENTIAL))[0])
    columns = TokenColumns.of_catalog(bundle.catalog.trie, bundle.tokenizer.eos_id)
    assert columns.output_tokens is not None
    permitted = {n: tuple(bundle.catalog.target(n).tolist()) for n in range(5, ITEMS + 1)}
    model = PathModel(seed, columns.output_tokens)
    expected = exhaustive(model, permitted, bundle.manifest.start_token, bundle.tokenizer.eos_id, penalty=1.0)[:10]
    answers = rec.recommend(USER, HISTORY, search=ItemSearchOptions(beams=ITEMS))
    assert [(a.item, a.score) for a in answers] == [(ITEM_IDS[number - 1], score) for number, score in expected]


def test_seen_items_come_back_only_when_asked_for(rec: Recommender) -> None:
    assert not set(items_of(rec.recommend(USER, HISTORY, k=ITEMS))) & set(HISTORY)
    everything = rec.recommend(USER, HISTORY, k=ITEMS, exclude_seen=False)
    assert sorted(items_of(everything)) == sorted(ITEM_IDS)


def test_without_a_history_the_stored_one_is_read(rec: Recommender) -> None:
    stored = [ITEM_IDS[number - 1] for number in stored_histories()[USER_IDS.index(USER)]]
    assert rec.recommend(USER) == rec.recommend(USER, stored)


def test_a_long_stored_history_is_read_from_its_end_and_excluded_whole(rec: Recommender) -> None:
    stored = [ITEM_IDS[number - 1] for number in stored_histories()[0]]
    assert len(stored) > MAX_HISTORY
    answers = rec.recommend(READER, k=ITEMS)
    assert answers == rec.recommend(READER, stored[-MAX_HISTORY:], k=ITEMS, exclude=stored)
    assert sorted(items_of(answers)) == sorted(set(ITEM_IDS) - set(stored))


def test_keep_last_cuts_a_long_history(bundle_path: Path, rec: Recommender) -> None:
    long = ITEM_IDS[: MAX_HISTORY + 3]
    keeping = podx.load(bundle_path, device="cpu", long_history="keep-last")
    assert keeping.recommend(USER, long) == rec.recommend(USER, long[-MAX_HISTORY:], exclude=long[:3])


def test_allow_and_exclude_limit_the_answers(rec: Recommender) -> None:
    answers = rec.recommend(USER, HISTORY, k=ITEMS, allow=ITEM_IDS[2:9], exclude=ITEM_IDS[5:7])
    assert sorted(items_of(answers)) == sorted([ITEM_IDS[4], ITEM_IDS[7], ITEM_IDS[8]])
    assert rec.recommend(USER, HISTORY, allow=[]) == []
    assert rec.recommend(USER, HISTORY, exclude=ITEM_IDS) == []


def test_rank_returns_candidates_only(rec: Recommender) -> None:
    candidates = ITEM_IDS[10:30]
    assert sorted(items_of(rec.rank(USER, candidates, k=20))) == sorted(candidates)
    assert sorted(items_of(rec.rank(USER, candidates, k=20, exclude=candidates[:5]))) == sorted(candidates[5:])


def test_the_order_of_candidates_is_part_of_the_input(rec: Recommender) -> None:
    candidates = ITEM_IDS[10:15]
    assert rec.rank(USER, candidates) != rec.rank(USER, candidates[::-1])


@pytest.mark.parametrize("k", [1, 30, ITEMS, 10 * ITEMS])
def test_k_may_exceed_the_beams_and_the_catalog(rec: Recommender, k: int) -> None:
    answers = rec.recommend(USER, HISTORY, k=k, search=NARROW)
    assert len(set(items_of(answers))) == len(answers) == min(k, ITEMS - len(HISTORY))
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)


def test_k_has_a_ceiling(bundle_path: Path, rec: Recommender) -> None:
    low = podx.load(bundle_path, device="cpu", max_k=3)
    assert low.recommend(USER, k=3) == rec.recommend(USER, k=3)
    encoded = rec.encode([RecommendRequest(USER)])
    for call in (
        lambda: low.recommend(USER, k=4),
        lambda: low.rank(USER, ITEM_IDS[:9], k=4),
        lambda: low.recommend_encoded(encoded, k=4),
        lambda: low.generate_items_batch([RecommendRequest(USER)], k=4),
    ):
        with pytest.raises(ConfigError, match=r"at most 3 \(max_k of podx\.load\), not 4"):
            call()
    with pytest.raises(ConfigError, match="at most 1000"):
        rec.recommend(USER, k=1001)
    with pytest.raises(ConfigError, match="max_k must be at least 1, not 0"):
        podx.load(bundle_path, device="cpu", max_k=0)


def test_scores_over_the_whole_vocabulary_are_lower(rec: Recommender) -> None:
    wide = rec.recommend(USER, HISTORY, search=ItemSearchOptions(score_over="vocabulary"))
    narrow = rec.recommend(USER, HISTORY)
    assert len(wide) == len(narrow) == 10
    assert wide[0].score < narrow[0].score < 0


def test_texts_of_a_divided_batch_come_in_order(rec: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [ExplainRequest(USER, item) for item in ITEM_IDS[:5]]
    whole = rec.explain_batch(pairs, SHORT_TEXT)
    monkeypatch.setattr(FakeGraphModel, "divided", 3)
    assert rec.explain_batch(pairs, SHORT_TEXT) == whole


def test_explain_gives_the_best_sentence(rec: Recommender) -> None:
    answer = rec.explain(USER, ITEM_IDS[3], SHORT_TEXT)
    assert answer == rec.explain_batch([ExplainRequest(USER, ITEM_IDS[3])], SHORT_TEXT)[0]
    assert answer != rec.explain(USER, ITEM_IDS[4], SHORT_TEXT)
    assert answer.text and answer.score < 0


def test_unconstrained_answers_are_read_as_they_come(rec: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rec.generate_items_batch([RecommendRequest(USER, HISTORY), RecommendRequest(USER)], k=3, search=SHORT_TEXT)
    assert [len(answers) for answers in found] == [3, 3]
    for answer in found[0]:
        named = answer.text.strip().isdigit() and 1 <= int(answer.text) <= ITEMS
        assert (answer.item is not None) == named

    written = {0: "17", 1: "no item", 2: str(ITEMS + 1)}
    tokens = {place: rec.bundle.tokenizer.encode(text) for place, text in written.items()}
    monkeypatch.setattr(
        "podx.snapshot.TextSearch.run",
        lambda self: [[Hypothesis(tokens[place], -1.0) for place in range(3)]],
    )
    (answers,) = rec.generate_items_batch([RankRequest(USER, ITEM_IDS[:9])], k=3)
    assert answers == [
        GeneratedItem("17", ITEM_IDS[16], -1.0),
        GeneratedItem("no item", None, -1.0),
        GeneratedItem(str(ITEMS + 1), None, -1.0),
    ]


# --- batches and threads --------------------------------------------------------------------------------------------


def mixed_requests(count: int) -> list[RecommendRequest]:
    rng = np.random.default_rng(3)
    return [
        RecommendRequest(USER_IDS[user], [ITEM_IDS[i] for i in rng.integers(0, ITEMS, size=rng.integers(1, 6))])
        for user in rng.integers(0, len(USER_IDS), size=count)
    ]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_give_single_answers_in_the_order_of_the_requests(rec: Recommender, batch_size: int) -> None:
    requests = mixed_requests(30)
    singly = [rec.recommend(r.user, r.history, search=NARROW) for r in requests]
    assert rec.recommend_batch(requests, search=NARROW, batch_size=batch_size) == singly
    lists = [RankRequest(r.user, ITEM_IDS[n : n + 3 + n % 5]) for n, r in enumerate(requests)]
    assert rec.rank_batch(lists, batch_size=batch_size) == [rec.rank(r.user, r.candidates) for r in lists]
    pairs = [ExplainRequest(r.user, ITEM_IDS[n]) for n, r in enumerate(requests[:8])]
    texts = [rec.explain(r.user, r.item, SHORT_TEXT) for r in pairs]
    assert rec.explain_batch(pairs, SHORT_TEXT, batch_size) == texts


def test_requests_run_as_many_at_a_time_as_asked(rec: Recommender) -> None:
    rec._snapshot.model.shapes.clear()  # type: ignore[attr-defined]
    rec.recommend_batch(mixed_requests(10), batch_size=4)
    sizes, lengths = zip(*rec._snapshot.model.shapes, strict=True)  # type: ignore[attr-defined]
    assert sizes == (4, 4, 2)
    assert lengths == tuple(sorted(lengths)) and len(set(lengths)) > 1  # alike lengths go together
    assert rec.recommend_batch([]) == rec.rank_batch([]) == rec.explain_batch([]) == rec.generate_items_batch([]) == []


def test_threads_give_what_one_gives(bundle_path: Path) -> None:
    requests = mixed_requests(64)
    serial = podx.load(bundle_path, device="cpu")
    expected = [serial.recommend(r.user, r.history) for r in requests]
    shared = podx.load(bundle_path, device="cpu")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda r: shared.recommend(r.user, r.history), requests)) == expected


# --- any request ----------------------------------------------------------------------------------------------------

RANDOM_REQUESTS = 4_000
PER_CALL = 500


def random_request(rng: np.random.Generator) -> RecommendRequest:
    def some(most: int) -> list[str]:
        return [ITEM_IDS[i] for i in rng.choice(ITEMS, size=rng.integers(0, most + 1), replace=False)]

    history = [ITEM_IDS[i] for i in rng.integers(0, ITEMS, size=rng.integers(1, MAX_HISTORY + 1))]
    allow = some(ITEMS) if rng.random() < 0.4 else None
    return RecommendRequest(USER_IDS[rng.integers(len(USER_IDS))], history, some(ITEMS), allow)


def test_no_answer_is_ever_invalid_repeated_excluded_or_seen(rec: Recommender) -> None:
    rng = np.random.default_rng(20)
    wrong = {"invalid": 0, "repeated": 0, "excluded": 0, "seen": 0, "not allowed": 0, "too few": 0}
    answered = 0
    for _ in range(RANDOM_REQUESTS // PER_CALL):
        requests = [random_request(rng) for _ in range(PER_CALL)]
        k = int(rng.integers(1, 13))
        search = ItemSearchOptions(beams=int(rng.integers(1, 9)), length_penalty=float(rng.choice([0.0, 1.0, 2.0])))
        found = rec.recommend_batch(requests, k, search=search, batch_size=250)
        for request, answers in zip(requests, found, strict=True):
            items = items_of(answers)
            forbidden = {*(request.history or ()), *request.exclude}
            permitted = set(ITEM_IDS if request.allow is None else request.allow) - forbidden
            wrong["invalid"] += sum(item not in ITEM_IDS for item in items)
            wrong["repeated"] += len(items) - len(set(items))
            wrong["excluded"] += len(set(items) & set(request.exclude))
            wrong["seen"] += len(set(items) & set(request.history or ()))
            wrong["not allowed"] += request.allow is not None and len(set(items) - set(request.allow))
            wrong["too few"] += len(items) != min(k, len(permitted))
            answered += bool(items)
    assert wrong == dict.fromkeys(wrong, 0)
    assert answered > RANDOM_REQUESTS / 2


def test_random_candidate_lists_come_back_as_subsets(rec: Recommender) -> None:
    rng = np.random.default_rng(21)
    chosen = [rng.choice(ITEMS, size=rng.integers(1, 30), replace=False) for _ in range(PER_CALL)]
    requests = [
        RankRequest(USER, [ITEM_IDS[i] for i in numbers], [ITEM_IDS[i] for i in numbers[:2]]) for numbers in chosen
    ]
    for request, answers in zip(requests, rec.rank_batch(requests, k=7, search=NARROW), strict=True):
        items = items_of(answers)
        assert set(items) <= set(request.candidates) - set(request.exclude)
        assert len(set(items)) == len(items) == min(7, len(request.candidates) - len(request.exclude))


@pytest.mark.parametrize(
    ("levels", "how", "opened"),
    [
        (0, {}, {ENCODER_FILE, ITEM_DECODER_FILE, DECODER_FILE}),
        (3, {"tasks": ["sequential"]}, {RECOMMEND_FILE}),
        (3, {"tasks": ["topn"]}, {RECOMMEND_FILE}),
        (3, {"tasks": ["sequential"], "search_graph": "steps"}, {ENCODER_FILE, ITEM_DECODER_FILE}),
        (3, {"tasks": ["explanation"]}, {ENCODER_FILE, DECODER_FILE}),
        (3, {"search_graph": "one"}, {RECOMMEND_FILE, ENCODER_FILE, DECODER_FILE}),
    ],
)
def test_loading_opens_the_graphs_of_the_tasks(
    tmp_path: Path,
    tokenizer_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    levels: int,
    how: dict[str, Any],
    opened: set[str],
) -> None:
    monkeypatch.setattr("podx.snapshot.Snapshot.try_out", lambda self: None)  # the fake has no graph of it all
    loaded = podx.load(write_bundle(tmp_path / "bundle", tokenizer_path, levels=levels), device="cpu", **how)
    assert loaded._snapshot.model.opened == opened  # type: ignore[attr-defined]


def test_loading_answers_a_few_requests(rec: Recommender) -> None:
    shapes = rec._snapshot.model.shapes  # type: ignore[attr-defined]
    assert [size for size, _ in shapes] == [TRIAL_USERS]


def test_tasks_that_cannot_be_opened_are_named(bundle_path: Path, tmp_path: Path, tokenizer_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown task poetry"):
        podx.load(bundle_path, device="cpu", tasks=["poetry"])
    poorer = write_bundle(tmp_path / "bundle", tokenizer_path, [Task.SEQUENTIAL])
    with pytest.raises(UnsupportedTaskError, match="not trained for the topn task"):
        podx.load(poorer, device="cpu", tasks=["topn"])


def test_a_loaded_bundle_can_be_wrapped(bundle_path: Path) -> None:
    rec = Recommender(Bundle.load(bundle_path), SessionOptions())
    assert rec.recommend(USER, HISTORY) == podx.load(str(bundle_path), device="cpu").recommend(USER, HISTORY)
