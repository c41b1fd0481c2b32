"""The batcher over a fake recommender whose answers say what was asked, and over a real one without graphs."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import pytest

import podx
from podx.decoding.options import ItemSearchOptions
from podx.errors import ClosedError, ConfigError, OverloadedError, RequestError, RequestTimeoutError, UnknownUserError
from podx.recommender import Recommender
from podx.requests.encoder import EncodedRequest, task_of
from podx.requests.types import ExplainRequest, RankRequest, Recommendation, RecommendRequest
from podx.serving.batcher import MILLISECONDS, Batcher
from podx.serving.queue import Kind, Line, Waiting
from podx.text.inputs import EncodedInput
from podx.text.templates import Task
from tests.podx.bundles import ITEM_IDS, ITEMS, MAX_HISTORY, USER_IDS, items_read

CLIENTS = 64
REQUESTS = 8_000
PATIENCE_S = 30.0
"""What would hang fails after this long."""

Request = RecommendRequest | RankRequest


@dataclass(frozen=True)
class Encoded:
    """In place of :class:`podx.requests.encoder.EncodedRequest`: the request itself."""

    request: Request
    exclude_seen: bool
    text: tuple[int, ...] = ()

    @property
    def task(self) -> Task:
        return task_of(self.request)


class Echo:
    """Answers with the words of the question. What names ``newcomer`` is refused when it is looked up.

    Attributes:
        calls: the requests of each call of the model.
        gate: closed, it holds calls up. running: set when a call has begun.
    """

    def __init__(self) -> None:
        self.calls: list[list[Request]] = []
        self.encoded: list[str] = []
        self.gate, self.running = threading.Event(), threading.Event()
        self.gate.set()

    def check_k(self, k: int) -> None:
        """Any will do."""

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]

    def encode(self, requests: Sequence[Request], exclude_seen: bool) -> list[Encoded]:
        self.encoded += [request.user for request in requests]
        for request in requests:
            if request.user == "newcomer":
                raise UnknownUserError("nobody knows a newcomer: ask for someone else")
        return [Encoded(request, exclude_seen) for request in requests]

    def recommend_encoded(
        self, requests: Sequence[Encoded], k: int, search: ItemSearchOptions, batch_size: int
    ) -> list[list[Recommendation]]:
        assert len({request.task for request in requests}) == 1
        return self._run(requests, k, search)

    def _run(self, encoded: Sequence[Encoded], k: int, search: ItemSearchOptions) -> list[list[Recommendation]]:
        self.running.set()
        assert self.gate.wait(PATIENCE_S)
        self.calls.append([one.request for one in encoded])
        for request in self.calls[-1]:
            if request.user == "late newcomer":
                raise RequestError("a newcomer came late: ask for someone else")
            if request.user == "bug":
                raise ZeroDivisionError("nobody expected this")
            if request.user == "silent":
                return []
        return [echo(one.request, k, one.exclude_seen, search) for one in encoded]


def echo(request: Request, k: int, exclude_seen: bool, search: ItemSearchOptions | None) -> list[Recommendation]:
    return [Recommendation(repr((request, k, exclude_seen, search or ItemSearchOptions())), 0.0)]


@pytest.fixture
def fake() -> Echo:
    return Echo()


@pytest.fixture
def blocked(fake: Echo) -> Iterator[tuple[Batcher, Future[list[Recommendation]]]]:
    """A batcher of at most 4 whose worker is held up with one request; 3 more may wait."""
    fake.gate.clear()
    with Batcher(fake, max_batch=4, max_pending=3) as batcher:  # type: ignore[arg-type]
        first = batcher.submit(RecommendRequest("first"))
        assert fake.running.wait(PATIENCE_S)
        yield batcher, first
        fake.gate.set()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def in_threads(clients: int, questions: int, ask: Callable[[int], object]) -> None:
    """Let threads ask questions 0 … questions-1, each its next one when it has an answer."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(questions):
        numbers.put(number)

    def client(_: int) -> None:
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            ask(number)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_answer_is_lost_or_swapped(fake: Echo) -> None:
    right = np.zeros(REQUESTS, dtype=np.int64)  # how often each question was answered rightly
    with Batcher(fake) as batcher:  # type: ignore[arg-type]

        def ask(number: int) -> None:
            request = RecommendRequest(f"user-{number}")
            right[number] += batcher.recommend(request.user, timeout_s=PATIENCE_S) == echo(request, 10, True, None)

        in_threads(CLIENTS, REQUESTS, ask)
        stats = batcher.stats
    assert (right == 1).all()
    assert (stats.answered, stats.waiting) == (REQUESTS, 0)
    assert sum(fake.sizes) == REQUESTS and max(fake.sizes) <= 32
    assert stats.batches == len(fake.sizes) < REQUESTS / 4, "most requests were merged with others"


def test_requests_of_different_kinds_are_never_merged(fake: Echo) -> None:
    rng = np.random.default_rng(5)
    searches = (None, ItemSearchOptions(beams=3), ItemSearchOptions(length_penalty=0.0))
    chosen = rng.integers(0, (2, 3, 2, 3), size=(3000, 4))
    wrong: list[int] = []
    with Batcher(fake, max_batch=8, workers=3) as batcher:  # type: ignore[arg-type]

        def ask(number: int) -> None:
            rank, k, seen, place = chosen[number].tolist()
            user, search = f"user-{number}", searches[place]
            if rank:
                answer = batcher.rank(user, ["a"], k + 1, search=search)
                expected = echo(RankRequest(user, ["a"]), k + 1, True, search)
            else:
                answer = batcher.recommend(user, ["a"], k + 1, exclude_seen=bool(seen), search=search)
                expected = echo(RecommendRequest(user, ["a"]), k + 1, bool(seen), search)
            if answer != expected:
                wrong.append(number)

        in_threads(32, len(chosen), ask)
    assert wrong == []
    assert 1 < max(fake.sizes) <= 8


def test_the_usual_search_and_what_is_looked_up_before_share_a_batch(blocked: tuple[Batcher, Future]) -> None:
    batcher, _ = blocked
    request = RecommendRequest("user", ["a"])
    kinds = [{"search": None}, {"search": ItemSearchOptions()}, {"exclude_seen": False}]
    futures = [batcher.submit(request, **kind) for kind in kinds]
    batcher._recommender.gate.set()
    answers = [future.result(PATIENCE_S) for future in futures]
    assert answers == [echo(request, 10, True, None), echo(request, 10, True, None), echo(request, 10, False, None)]
    assert batcher._recommender.sizes == [1, 3]


@pytest.mark.usefixtures("fake_model")
def test_a_shared_recommender_answers_threads_as_it_answers_one(rec: Recommender) -> None:
    rng = np.random.default_rng(6)
    requests = [
        RecommendRequest(USER_IDS[user], [ITEM_IDS[i] for i in rng.integers(0, ITEMS, size=length)])
        for user, length in rng.integers((0, 1), (len(USER_IDS), MAX_HISTORY + 1), size=(150, 2)).tolist()
    ]
    lists = [RankRequest(r.user, ITEM_IDS[n % 20 : n % 20 + 9]) for n, r in enumerate(requests)]
    expected = [
        (rec.recommend(r.user, r.history), rec.rank(c.user, c.candidates)) for r, c in zip(requests, lists, strict=True)
    ]
    direct: dict[int, object] = {}
    merged: dict[int, object] = {}
    with Batcher(rec) as batcher:

        def ask(number: int) -> None:
            next_, ranked = requests[number], lists[number]
            direct[number] = rec.recommend(next_.user, next_.history), rec.rank(ranked.user, ranked.candidates)
            merged[number] = batcher.recommend(next_.user, next_.history), batcher.rank(ranked.user, ranked.candidates)

        in_threads(16, len(requests), ask)
    for found in (direct, merged):
        assert [found[number] for number in range(len(requests))] == expected


def test_a_coroutine_awaits_an_answer(fake: Echo) -> None:
    async def ask_all() -> list[list[Recommendation]]:
        return await asyncio.gather(*(asyncio.wrap_future(batcher.submit(request)) for request in requests))

    requests = [RecommendRequest(f"user-{number}") for number in range(100)]
    with Batcher(fake) as batcher:  # type: ignore[arg-type]
        assert asyncio.run(ask_all()) == [echo(request, 10, True, None) for request in requests]


# --- when a batch starts --------------------------------------------------------------------------------------------


def test_a_lone_client_never_waits_for_others(fake: Echo) -> None:
    with Batcher(fake, max_wait_ms=60_000) as batcher:  # type: ignore[arg-type]
        start = time.monotonic()
        for number in range(20):
            batcher.recommend(f"user-{number}")
        assert time.monotonic() - start < PATIENCE_S
    assert fake.sizes == [1] * 20


def test_requests_gather_while_the_worker_is_busy(fake: Echo) -> None:
    fake.gate.clear()
    with Batcher(fake, max_batch=32) as batcher:  # type: ignore[arg-type]
        batcher.submit(RecommendRequest("first"))
        assert fake.running.wait(PATIENCE_S)
        for number in range(40):
            batcher.submit(RecommendRequest(f"user-{number}"))
        assert batcher.stats.waiting == 40
        fake.gate.set()
    assert fake.sizes == [1, 32, 8]
    assert [request.user for request in fake.calls[1]] == [f"user-{number}" for number in range(32)]


def test_a_worker_waits_for_the_clients_it_has_just_answered(fake: Echo) -> None:
    clients, rounds = 8, 50
    fake.gate.clear()

    def ask(number: int) -> None:
        assert number == 0 or fake.running.wait(PATIENCE_S)  # the first is taken alone
        batcher.recommend(f"user-{number}")

    with Batcher(fake, max_wait_ms=MILLISECONDS * PATIENCE_S) as batcher, ThreadPoolExecutor(1) as pool:  # type: ignore[arg-type]
        asked = pool.submit(in_threads, clients, 1 + rounds * clients, ask)
        until(lambda: batcher.stats.waiting == clients - 1)
        fake.gate.set()
        asked.result(PATIENCE_S)
    assert fake.sizes == [1] + [clients] * rounds


def test_a_worker_does_not_wait_for_clients_that_have_left(fake: Echo, blocked: tuple[Batcher, Future]) -> None:
    batcher, first = blocked
    others = [batcher.submit(RecommendRequest(f"user-{number}")) for number in range(3)]
    fake.gate.set()
    wait([first, *others], PATIENCE_S)
    assert batcher.recommend("last one", timeout_s=PATIENCE_S) == echo(RecommendRequest("last one"), 10, True, None)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_bad_request_raises_in_its_own_thread(fake: Echo) -> None:
    with Batcher(fake) as batcher:  # type: ignore[arg-type]
        with pytest.raises(UnknownUserError, match="ask for someone else"):
            batcher.recommend("newcomer")
        assert batcher.stats.answered == 0
    assert fake.calls == []


@pytest.mark.parametrize(
    ("user", "error"), [("late newcomer", RequestError), ("bug", ZeroDivisionError), ("silent", ValueError)]
)
def test_an_error_of_a_batch_hits_only_who_caused_it(
    fake: Echo, blocked: tuple[Batcher, Future], user: str, error: type[Exception]
) -> None:
    batcher, first = blocked
    one, bad, other = (batcher.submit(RecommendRequest(name)) for name in ("one", user, "other"))
    fake.gate.set()
    assert first.result(PATIENCE_S) == echo(RecommendRequest("first"), 10, True, None)
    assert one.result(PATIENCE_S) == echo(RecommendRequest("one"), 10, True, None)
    assert other.result(PATIENCE_S) == echo(RecommendRequest("other"), 10, True, None)
    with pytest.raises(error):
        bad.result(PATIENCE_S)
    assert fake.sizes == [1, 3, 1, 1, 1]
    assert batcher.recommend("next", timeout_s=PATIENCE_S), "the worker goes on"


def test_a_full_line_refuses_more_and_says_what_to_do(fake: Echo, blocked: tuple[Batcher, Future]) -> None:
    batcher, first = blocked
    waiting = [batcher.submit(RecommendRequest(f"user-{number}")) for number in range(3)]
    with pytest.raises(OverloadedError, match=r"3 requests wait already: .*503.*max_pending"):
        batcher.recommend("one too many")
    assert fake.encoded == ["first", "user-0", "user-1", "user-2"], "who is refused is not looked up"
    fake.gate.set()
    assert all(future.result(PATIENCE_S) for future in (first, *waiting))
    assert batcher.recommend("after the rush", timeout_s=PATIENCE_S)


def test_bad_requests_under_load_disturb_nobody(fake: Echo) -> None:
    outcomes: Counter[str] = Counter()
    users = {0: "newcomer", 1: "late newcomer", 2: "bug"}
    with Batcher(fake) as batcher:  # type: ignore[arg-type]

        def ask(number: int) -> None:
            user = users.get(number % 50, f"user-{number}")
            try:
                answer = batcher.recommend(user, timeout_s=PATIENCE_S)
            except (RequestError, ZeroDivisionError) as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes["right" if answer == echo(RecommendRequest(user), 10, True, None) else "wrong"] += 1

        in_threads(32, 5000, ask)
    assert outcomes == {"right": 4700, "UnknownUserError": 100, "RequestError": 100, "ZeroDivisionError": 100}


def test_a_request_is_given_up_after_its_time_and_not_run(fake: Echo, blocked: tuple[Batcher, Future]) -> None:
    batcher, _ = blocked
    with pytest.raises(RequestTimeoutError, match="no answer in time: allow more time"):
        batcher.rank("impatient", ["a"], timeout_s=0.05)
    assert (batcher.stats.waiting, batcher.stats.dropped) == (0, 1)
    fake.gate.set()
    batcher.close()
    assert [request.user for call in fake.calls for request in call] == ["first"]


def test_what_waits_past_its_time_is_not_run_and_leaves_its_place_to_others(fake: Echo) -> None:
    fake.gate.clear()
    with Batcher(fake, max_batch=4) as batcher:  # type: ignore[arg-type]
        first = batcher.submit(RecommendRequest("first"), timeout_s=0.05)
        assert fake.running.wait(PATIENCE_S)
        late = [batcher.submit(RecommendRequest(f"late-{number}"), timeout_s=0.05) for number in range(3)]
        others = [batcher.submit(RecommendRequest(f"user-{number}"), timeout_s=PATIENCE_S) for number in range(4)]
        time.sleep(0.1)
        fake.gate.set()
        assert first.result(PATIENCE_S) and all(future.result(PATIENCE_S) for future in others)
        for future in late:
            with pytest.raises(RequestTimeoutError, match="no answer in time"):
                future.result(PATIENCE_S)
        stats = batcher.stats
    assert fake.sizes == [1, 4], "the four that are in time fill a batch"
    assert (stats.answered, stats.batches, stats.dropped, stats.waiting) == (5, 2, 3, 0)


def test_a_timeout_raised_by_the_model_is_not_taken_for_the_callers(
    fake: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> list[list[Recommendation]]:
        raise TimeoutError("the model's own")

    monkeypatch.setattr(fake, "_run", late)
    with Batcher(fake) as batcher, pytest.raises(TimeoutError, match="the model's own"):  # type: ignore[arg-type]
        batcher.recommend("someone", timeout_s=PATIENCE_S)


def test_a_cancelled_request_leaves_the_line(fake: Echo, blocked: tuple[Batcher, Future]) -> None:
    batcher, first = blocked
    futures = [batcher.submit(RecommendRequest(f"user-{number}")) for number in range(3)]
    assert futures[1].cancel() and not first.cancel()
    futures.append(batcher.submit(RecommendRequest("in its place")))
    fake.gate.set()
    done, left = wait(futures, PATIENCE_S)
    assert (len(done), len(left)) == (4, 0)
    with pytest.raises(CancelledError):
        futures[1].result()
    assert batcher.stats.dropped == 1
    assert [request.user for request in fake.calls[-1]] == ["user-0", "user-2", "in its place"]


# --- closing --------------------------------------------------------------------------------------------------------


def test_closing_answers_what_waits(fake: Echo) -> None:
    with Batcher(fake, max_batch=4, max_wait_ms=60_000) as batcher:  # type: ignore[arg-type]
        futures = [batcher.submit(RecommendRequest(f"user-{number}")) for number in range(50)]
    assert [f.result(0) for f in futures] == [echo(RecommendRequest(f"user-{n}"), 10, True, None) for n in range(50)]
    for ask in (lambda: batcher.recommend("late"), lambda: batcher.rank("late", ["a"])):
        with pytest.raises(ClosedError, match="make a new one"):
            ask()
    batcher.close()


def test_closing_without_draining_fails_what_waits(fake: Echo, blocked: tuple[Batcher, Future]) -> None:
    batcher, first = blocked
    waiting = [batcher.submit(RecommendRequest(f"user-{number}")) for number in range(3)]
    waiting[0].cancel()
    threading.Timer(0.05, fake.gate.set).start()
    batcher.close(drain=False)
    assert first.result(0) == echo(RecommendRequest("first"), 10, True, None)
    for future in waiting[1:]:
        with pytest.raises(ClosedError, match="ask a new one again"):
            future.result(0)
    assert fake.sizes == [1]


def test_an_error_in_the_block_drops_what_waits(fake: Echo) -> None:
    fake.gate.clear()
    with pytest.raises(KeyError), Batcher(fake, max_batch=1) as batcher:  # type: ignore[arg-type]
        first = batcher.submit(RecommendRequest("first"))
        assert fake.running.wait(PATIENCE_S)
        second = batcher.submit(RecommendRequest("second"))
        threading.Timer(0.05, fake.gate.set).start()
        raise KeyError
    assert first.result(0) and isinstance(second.exception(0), ClosedError)


def test_an_answer_may_close_the_batcher(fake: Echo) -> None:
    batcher = Batcher(fake)  # type: ignore[arg-type]
    closed = threading.Event()
    future = batcher.submit(RecommendRequest("last"))
    future.add_done_callback(lambda _: (batcher.close(), closed.set()))
    assert closed.wait(PATIENCE_S)
    batcher.close()


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"max_batch": 0}, {"max_pending": 0}, {"workers": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}],
)
def test_options_out_of_range_are_named(fake: Echo, options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        Batcher(fake, **options)  # type: ignore[arg-type]


def test_what_cannot_be_merged_is_named(fake: Echo) -> None:
    with Batcher(fake) as batcher:  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="not ExplainRequest: call the recommender"):
            batcher.submit(ExplainRequest("user", "item"))  # type: ignore[arg-type]
        for time_ in (0, -1, float("nan")):
            with pytest.raises(ConfigError, match="timeout_s must be above zero"):
                batcher.recommend("user", timeout_s=time_)


@pytest.mark.usefixtures("fake_model")
def test_it_wraps_what_podx_load_gives(rec: Recommender) -> None:
    with podx.Batcher(rec) as batcher:
        assert batcher.recommend(USER_IDS[1], k=3) == rec.recommend(USER_IDS[1], k=3)
        for k in (0, rec.max_k + 1):
            with pytest.raises(ConfigError, match=r"k must be at least 1 and at most 1000 \(max_k"):
                batcher.recommend(USER_IDS[1], k=k)
        for bad in (
            lambda: batcher.recommend("nobody"),
            lambda: batcher.recommend(USER_IDS[1], []),
            lambda: batcher.recommend(USER_IDS[1], allow=["nothing"]),
            lambda: batcher.recommend(USER_IDS[1], exclude=["nothing"]),
            lambda: batcher.rank(USER_IDS[1], []),
            lambda: batcher.rank(USER_IDS[1], ["nothing"]),
        ):
            with pytest.raises(RequestError):
                bad()
        assert batcher.stats.answered == 1, "bad requests never reached the worker"


@pytest.mark.usefixtures("fake_model")
def test_encoding_raises_what_a_call_would(rec: Recommender) -> None:
    stored, candidates = RecommendRequest(USER_IDS[0]), RankRequest(USER_IDS[0], ITEM_IDS[:7])
    assert items_read(rec.encode([stored])[0]) == MAX_HISTORY  # the stored history is longer
    assert items_read(rec.encode([candidates])[0]) == 7
    for request in (
        RecommendRequest("nobody"),
        RecommendRequest(USER_IDS[1], ITEM_IDS[: MAX_HISTORY + 1]),
        RankRequest(USER_IDS[1], [ITEM_IDS[0]] * 2),
        RankRequest("nobody", ITEM_IDS[:3]),
    ):
        call = rec.rank_batch if isinstance(request, RankRequest) else rec.recommend_batch
        with pytest.raises(RequestError) as checked:
            rec.encode([request])
        with pytest.raises(RequestError) as called:
            call([request])  # type: ignore[list-item]
        assert (checked.type, str(checked.value)) == (called.type, str(called.value))


# --- who goes next --------------------------------------------------------------------------------------------------


def person(number: int, length: int = 1, kind: int = 10) -> Waiting:
    tokens, nothing = np.zeros(length, dtype=np.int64), np.zeros(0, dtype=np.int64)
    source = RecommendRequest(f"user-{number}"), True, "a version"
    request = EncodedRequest(*source, EncodedInput(tokens, tokens), Task.SEQUENTIAL, 0, nothing, None)
    return Waiting(Kind(Task.SEQUENTIAL, kind, ItemSearchOptions()), request, Future(), number=number)


def test_the_oldest_goes_first_whatever_its_kind() -> None:
    line = Line()
    for number, kind in enumerate([2, 1, 2, 1, 1]):
        line.add(person(number, kind=kind))
    assert [[one.number for one in line.take(2)] for _ in range(3)] == [[0, 2], [1, 3], [4]]
    assert len(line) == 0


def test_requests_of_like_length_go_together_and_nobody_is_passed_over_twice() -> None:
    rng = np.random.default_rng(7)
    line, number = Line(), 0
    waiting: dict[int, int] = {}  # number → length
    passed: Counter[int] = Counter()
    widths, widths_in_order = 0, 0
    for _ in range(500):
        for _ in range(min(24 - len(line), int(rng.integers(5, 13)))):
            waiting[number] = int(rng.integers(1, 50))
            line.add(person(number, waiting[number]))
            number += 1
        oldest = sorted(waiting)[:8]
        widths_in_order += np.ptp([waiting[one] for one in oldest])
        taken = [one.number for one in line.take(8)]
        assert len(taken) == len(oldest)
        assert oldest[0] in taken
        widths += np.ptp([waiting.pop(one) for one in taken])
        passed.update(left for left in waiting if left < max(taken))
    assert max(passed.values()) == 1
    assert widths < 0.8 * widths_in_order, f"{widths} against {widths_in_order}"


def test_removing_frees_a_place_once() -> None:
    line = Line()
    one, other = person(0), person(1)
    line.add(one)
    line.add(other)
    assert line.remove(one.kind, one.number) and not line.remove(one.kind, one.number)
    assert line.clear() == [other] and len(line) == 0


def test_it_says_how_long_a_request_would_take(rec: Recommender) -> None:
    """The slowest of the last batches, beside what is left of the one under way and those ahead."""
    seen: list[tuple[int, float]] = []
    with podx.Batcher(rec, max_batch=4, on_batch=lambda size, seconds: seen.append((size, seconds))) as batcher:
        assert (batcher.stats.wait_s, batcher.stats.batch_s) == (0, 0)
        batcher.recommend(USER_IDS[1])
        batcher.recommend(USER_IDS[2])
        (_, first), (_, second) = seen
        assert batcher.stats.batch_s == max(first, second)
        assert batcher.stats.wait_s == 0, "the worker is idle"
    assert [size for size, _ in seen] == [1, 1]
