"""Another bundle takes over under way: nothing is dropped, nothing mixed, and a broken one is refused."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle.bundle import CATALOG_FILE, USERS_FILE
from podx.decoding.items import ItemResults
from podx.decoding.stepper import FloatArray, IntArray
from podx.errors import SwapError, UnknownItemError
from podx.recommender import Recommender
from podx.requests.types import Recommendations, RecommendRequest
from podx.serving.batcher import Batcher
from podx.text.inputs import Batch
from podx.text.templates import Task
from tests.podx.bundles import ITEM_IDS, USER_IDS, write_bundle
from tests.podx.fakes import FakeGraphModel, HashStepper

PATIENCE_S = 30.0
GONE, NEW = ITEM_IDS[0], "new item"
REQUESTS = [RecommendRequest(user, ITEM_IDS[first : first + 3]) for first, user in enumerate(USER_IDS[:8], start=1)]
pytestmark = pytest.mark.usefixtures("fake_model")


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    """A bundle in which every item has another number, one item is gone, and one is new."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    return write_bundle(folder, tokenizer_path, item_ids=[NEW, *reversed(ITEM_IDS[1:])])


def answers_of(path: Path) -> list[Recommendations]:
    return podx.load(path, device="cpu").recommend_batch(REQUESTS, batch_size=1)


def test_answers_come_from_the_new_bundle(rec: Recommender, other_path: Path) -> None:
    before, encoded = rec.recommend_batch(REQUESTS), rec.encode(REQUESTS)
    rec.swap(str(other_path))
    assert rec.recommend_batch(REQUESTS) == answers_of(other_path) != before
    assert rec.recommend_encoded(encoded) == answers_of(other_path), "what was encoded before is encoded anew"
    assert rec.recommend(USER_IDS[1], [NEW]) and rec.bundle.path == other_path
    with pytest.raises(UnknownItemError, match=GONE):
        rec.recommend(USER_IDS[1], [GONE])


def test_a_version_stands_for_what_is_in_the_folder(
    rec: Recommender, bundle_path: Path, other_path: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle_path, tmp_path / "copy")
    assert rec.version == podx.load(copy, device="cpu").version != podx.load(other_path, device="cpu").version
    assert len(rec.version) == 12 and set(rec.version) <= set("0123456789abcdef")
    assert rec.manifest == rec.bundle.manifest
    version = rec.version
    rec.swap(other_path)
    assert rec.version == podx.load(other_path, device="cpu").version != version


# --- what is refused --------------------------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    content = bytearray((path / CATALOG_FILE).read_bytes())
    content[-1] ^= 1
    (path / CATALOG_FILE).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "holds no manifest.json"),
        (damaged, "catalog.bin is damaged"),
        (lambda path: (path / USERS_FILE).unlink(), "is missing"),
    ],
)
def test_a_bundle_that_does_not_load_is_refused(
    rec: Recommender, other_path: Path, tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    broken, version, before = tmp_path / "broken", rec.version, rec.recommend_batch(REQUESTS)
    spoil(shutil.copytree(other_path, broken))
    with pytest.raises(SwapError, match=f"broken does not take over, bundle {version} goes on: .*{reason}"):
        rec.swap(broken)
    assert (rec.version, rec.recommend_batch(REQUESTS)) == (version, before)
    rec.swap(other_path)
    assert rec.version != version


def test_a_bundle_that_lacks_a_task_is_refused(rec: Recommender, tmp_path: Path, tokenizer_path: Path) -> None:
    poorer = write_bundle(tmp_path / "poorer", tokenizer_path, [Task.SEQUENTIAL, Task.TOPN])
    with pytest.raises(SwapError, match="not trained for the explanation task"):
        rec.swap(poorer)


def fails(self: HashStepper, tokens: IntArray, distance: IntArray) -> FloatArray:
    raise RuntimeError("the graph does not run")


def gives_no_numbers(self: HashStepper, tokens: IntArray, distance: IntArray) -> FloatArray:
    return np.full((*tokens.shape, len(self._tokens)), np.nan, dtype=np.float32)


def finds_nothing(self: object) -> ItemResults:
    return ItemResults(np.zeros((3, 10), dtype=np.int64), np.zeros((3, 10), dtype=np.float32))


def finds_the_worst(self: object) -> ItemResults:
    return ItemResults(np.ones((3, 10), dtype=np.int64), np.full((3, 10), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("place", "broken", "reason"),
    [
        ("tests.podx.fakes.HashStepper.step", fails, "RuntimeError: the graph does not run"),
        ("tests.podx.fakes.HashStepper.step", gives_no_numbers, "comes back for user 'user-1'"),
        ("podx.graphs.catalog_search.ItemSearch.run", finds_nothing, "no item comes back for user 'user-1'"),
        ("podx.graphs.catalog_search.ItemSearch.run", finds_the_worst, "an item without a score comes back"),
    ],
)
def test_a_bundle_that_fails_its_trial_is_refused(
    rec: Recommender, other_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, broken: object, reason: str
) -> None:
    version, before = rec.version, rec.recommend_batch(REQUESTS)
    with monkeypatch.context() as patched:
        patched.setattr(place, broken)
        with pytest.raises(SwapError, match=reason):
            rec.swap(other_path)
    assert (rec.version, rec.recommend_batch(REQUESTS)) == (version, before)


def test_a_trial_of_the_callers_own(rec: Recommender, other_path: Path) -> None:
    version = rec.version
    with pytest.raises(SwapError, match=f"goes on: .*{GONE}"):
        rec.swap(
            other_path, trial=[RecommendRequest(USER_IDS[0], [ITEM_IDS[1]]), RecommendRequest(USER_IDS[0], [GONE])]
        )
    with pytest.raises(SwapError, match="no item comes back"):
        rec.swap(other_path, trial=[RecommendRequest(USER_IDS[0], [NEW], allow=[])])
    assert rec.version == version
    rec.swap(other_path, trial=[RecommendRequest(USER_IDS[0], [NEW])])
    assert rec.version != version


# --- under way --------------------------------------------------------------------------------------------------------


class Gate:
    """Holds the fake models' runs up while it is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()
        encode = FakeGraphModel.encode

        def held(model: FakeGraphModel, batch: Batch, task_id: int) -> dict[str, np.ndarray]:
            if threading.current_thread() is not threading.main_thread():  # which swaps
                self.reached.set()
                assert self.open.wait(PATIENCE_S)
            return encode(model, batch, task_id)

        monkeypatch.setattr(FakeGraphModel, "encode", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_a_call_under_way_ends_on_the_bundle_it_began_with(rec: Recommender, other_path: Path, gate: Gate) -> None:
    before = rec.recommend_batch(REQUESTS)
    gate.open.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(rec.recommend_batch, REQUESTS, batch_size=1)  # several runs of the model
        assert gate.reached.wait(PATIENCE_S)
        rec.swap(other_path)
        assert rec.recommend_batch(REQUESTS) == answers_of(other_path), "the next call does not wait for it"
        gate.open.set()
        assert asked.result(PATIENCE_S) == before


def test_requests_that_wait_are_answered_from_the_new_bundle(rec: Recommender, other_path: Path, gate: Gate) -> None:
    before = rec.recommend(REQUESTS[0].user, REQUESTS[0].history)
    gate.open.clear()
    with Batcher(rec) as batcher:
        first = batcher.submit(REQUESTS[0])
        assert gate.reached.wait(PATIENCE_S)
        waiting = [batcher.submit(request) for request in REQUESTS]
        gone = batcher.submit(RecommendRequest(USER_IDS[1], [GONE]))
        rec.swap(other_path)
        gate.open.set()
        assert first.result(PATIENCE_S) == before
        assert [future.result(PATIENCE_S) for future in waiting] == answers_of(other_path)
        with pytest.raises(UnknownItemError, match=GONE):
            gone.result(PATIENCE_S)


@pytest.mark.slow
def test_under_many_swaps_no_answer_is_dropped_or_mixed(
    rec: Recommender, bundle_path: Path, other_path: Path, tmp_path: Path
) -> None:
    damaged(shutil.copytree(other_path, tmp_path / "broken"))
    expected = [answers_of(bundle_path), answers_of(other_path)]
    stop, refused = threading.Event(), 0
    counts = np.zeros(2, dtype=np.int64)

    def client(batcher: Batcher, number: int) -> tuple[np.ndarray, int]:
        own, mixed = counts.copy(), 0
        while not stop.is_set():
            request = REQUESTS[number]
            answer = batcher.recommend(request.user, request.history, timeout_s=PATIENCE_S)
            right = [answer == answers[number] for answers in expected]
            own += right
            mixed += not any(right)
        return own, mixed

    with Batcher(rec, max_batch=4) as batcher, ThreadPoolExecutor(len(REQUESTS)) as pool:
        clients = [pool.submit(client, batcher, number) for number in range(len(REQUESTS))]
        try:
            for number in range(40):
                if number % 10 == 9:
                    with pytest.raises(SwapError):
                        rec.swap(tmp_path / "broken")
                    refused += 1
                else:
                    rec.swap((other_path, bundle_path)[number % 2])
        finally:
            stop.set()
        for own, mixed in (one.result(PATIENCE_S) for one in clients):
            counts += own
            assert mixed == 0
    assert refused == 4 and (counts > 0).all(), counts
