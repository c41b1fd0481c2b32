"""Single requests of many calling threads, answered in batches."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from podx.decoding.options import USUAL_SEARCH, ItemSearchOptions
from podx.errors import ClosedError, ConfigError, OverloadedError, PodxError, RequestTimeoutError
from podx.recommender import DEFAULT_K, Recommender
from podx.requests.types import RankRequest, Recommendations, RecommendRequest
from podx.serving.queue import Kind, Line, Waiting
from podx.text.batches import DEFAULT_BATCH_SIZE

DEFAULT_MAX_WAIT_MS = 2.0
DEFAULT_MAX_PENDING = 256
MILLISECONDS = 1e3
LAST_BATCHES = 4
"""The slowest of them is what the next ones are expected to take: long and short requests go in turns."""
TOO_LATE = "no answer in time: allow more time, or let fewer requests wait with max_pending"


@dataclass(frozen=True)
class BatcherStats:
    """What a batcher has done so far.

    Attributes:
        answered: requests answered, errors included. batches: calls of the model that took.
        dropped: requests that were never run, because they were cancelled or past their time while they waited.
        waiting: requests that wait for a batch now.
        wait_s: seconds, about, until the batch of one that came now would start; 0: at once.
        batch_s: seconds that the slowest of the last few batches took.
    """

    answered: int
    batches: int
    dropped: int
    waiting: int
    wait_s: float
    batch_s: float


class Batcher:
    """Merges concurrent requests into batches, each answered as a direct call to the recommender would answer it.

    A request is looked up and written as tokens in the thread that brings it, so a bad one raises there and disturbs
    nobody; then it waits for a worker. **When a batch starts**: at once where the worker is idle, so a lone client
    waits for nothing; and while the worker is busy, requests gather by themselves. Only right after a batch does a
    worker wait, at most ``max_wait_ms``, for the clients it has just answered to come back: it leaves as soon as the
    batch is full or as many wait as were there before. Without that pause, the first client back would be served alone
    and all others would wait for it. Requests that differ in task, k or ``search`` are never merged. The next batch is
    that of the request that waits longest; where two full batches wait, they are cut by length, so that little is
    padded. After :meth:`podx.Recommender.swap`, requests that wait are answered from the new bundle, and a batch always
    from one bundle.

    Safe to call from any number of threads. Leaving it as a context manager closes it.

    Args:
        recommender: who answers; may be called directly at the same time.
        max_batch: most requests of one call.
        max_wait_ms: longest pause after a batch; 0: none. A service behind a network, whose clients come back later
            than threads of the same process do, gains from a longer one at the cost of that much latency.
        max_pending: most requests that wait; more are refused with OverloadedError. A request waits at most about
            ``max_pending`` ÷ (requests answered per second), so choose it by the latency that is still of use.
        workers: batches under way at a time. One call uses all cores already, so more help only where a session was
            given few threads.
        on_batch: told the size of every batch and the seconds it took, by the worker; for metrics.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        recommender: Recommender,
        max_batch: int = DEFAULT_BATCH_SIZE,
        max_wait_ms: float = DEFAULT_MAX_WAIT_MS,
        max_pending: int = DEFAULT_MAX_PENDING,
        workers: int = 1,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_pending", max_pending), ("workers", workers)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if not 0 <= max_wait_ms < float("inf"):
            raise ConfigError(f"max_wait_ms must be 0 or a number of milliseconds, not {max_wait_ms}")
        self._recommender = recommender
        self._max_batch, self._max_pending, self._max_wait_s = max_batch, max_pending, max_wait_ms / MILLISECONDS
        self._on_batch, self._batch_s = on_batch, 0.0
        self._times = deque[float](maxlen=LAST_BATCHES)
        self._changed = threading.Condition()  # guards everything below
        self._line = Line()
        self._closed = False
        self._free_at = 0.0  # when the batch under way will be done, about
        self._number = self._answered = self._batches = self._dropped = 0
        self._expected, self._leave_at = 1, 0.0  # a worker leaves with that many requests, or at that time
        self._workers = [
            threading.Thread(target=self._work, name=f"podx-batcher-{number}", daemon=True) for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    # --- what callers use -----------------------------------------------------------------------------------------

    def recommend(
        self,
        user: str,
        history: Sequence[str] | None = None,
        k: int = DEFAULT_K,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        exclude_seen: bool = True,
        search: ItemSearchOptions | None = None,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """:meth:`podx.Recommender.recommend`, merged with what others ask at the time.

        Args:
            timeout_s: seconds to wait for the answer; None: as long as it takes.

        Raises:
            RequestTimeoutError: the time is over; a request that still waits is dropped.
            OverloadedError, ClosedError: see :meth:`submit`.
            RequestError, ConfigError: as the direct call.
        """
        request = RecommendRequest(user, history, exclude, allow)
        return self._wait(self.submit(request, k, exclude_seen, search, timeout_s), timeout_s)

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        k: int = DEFAULT_K,
        exclude: Sequence[str] = (),
        search: ItemSearchOptions | None = None,
        timeout_s: float | None = None,
        history: Sequence[str] | None = None,
    ) -> Recommendations:
        """:meth:`podx.Recommender.rank`, merged with what others ask at the time; see :meth:`recommend`."""
        request = RankRequest(user, candidates, exclude, history)
        return self._wait(self.submit(request, k, search=search, timeout_s=timeout_s), timeout_s)

    def submit(
        self,
        request: RecommendRequest | RankRequest,
        k: int = DEFAULT_K,
        exclude_seen: bool = True,
        search: ItemSearchOptions | None = None,
        timeout_s: float | None = None,
    ) -> Future[Recommendations]:
        """Hand in a request.

        Args:
            timeout_s: seconds from now; a request that still waits then is not run, and its future fails with
                RequestTimeoutError when the next batch starts. One that runs is finished. None: no limit.

        Returns:
            a future of the answer; ``await asyncio.wrap_future(batcher.submit(request))`` in a coroutine. Cancelling it
            drops a request that still waits.

        Raises:
            RequestError: the request cannot be answered as asked.
            ConfigError: it is of another kind, or ``k`` or ``timeout_s`` is out of range.
            OverloadedError: as many requests wait as may; nothing was looked up.
            ClosedError: the batcher has been closed.
        """
        waiting = self.prepare(request, k, exclude_seen, search, timeout_s)
        self.enter([waiting])
        return waiting.future

    def prepare(
        self,
        request: RecommendRequest | RankRequest,
        k: int = DEFAULT_K,
        exclude_seen: bool = True,
        search: ItemSearchOptions | None = None,
        timeout_s: float | None = None,
    ) -> Waiting:
        """Look a request up for :meth:`enter`; arguments and errors as for :meth:`submit`."""
        if not isinstance(request, RecommendRequest | RankRequest):
            raise ConfigError(
                f"a batcher merges RecommendRequest and RankRequest, not {type(request).__name__}: "
                f"call the recommender itself for others"
            )
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"timeout_s must be above zero, or None for no limit, not {timeout_s}")
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._recommender.check_k(k)
        self._require_room(1)
        encoded = self._recommender.encode([request], exclude_seen)[0]
        return Waiting(Kind(encoded.task, k, search or USUAL_SEARCH), encoded, Future(), deadline)

    def enter(self, requests: Sequence[Waiting]) -> None:
        """Put prepared requests into the line, all of them together.

        Raises:
            OverloadedError: there are not places for all, so none has entered. ClosedError: the batcher is closed.
        """
        with self._changed:
            self._require_room(len(requests))
            before = len(self._line)
            for waiting in requests:
                self._number += 1
                waiting.number = self._number
                self._line.add(waiting)
            if not before or len(self._line) >= self._expected:  # else no worker would leave any earlier
                self._changed.notify_all()
        for waiting in requests:
            waiting.future.add_done_callback(partial(self._forget, waiting.kind, waiting.number))  # not itself: a cycle

    @property
    def stats(self) -> BatcherStats:
        """What was done so far."""
        with self._changed:
            waiting = len(self._line)
            ahead = waiting // (self._max_batch * len(self._workers))
            ahead += ahead > 0  # it may be passed over once, by length
            wait_s = ahead * self._batch_s + max(0.0, self._free_at - time.monotonic())
            return BatcherStats(self._answered, self._batches, self._dropped, waiting, wait_s, self._batch_s)

    def close(self, drain: bool = True) -> None:
        """Take no more requests and return when the workers have ended. May be called again.

        Args:
            drain: answer what waits first; otherwise it fails with ClosedError, and only what runs is finished.
        """
        with self._changed:
            self._closed = True
            dropped = [] if drain else self._line.clear()
            self._changed.notify_all()
        _fail(dropped, ClosedError, "the batcher was closed before this request was answered: ask a new one again")
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    # --- callers' threads -----------------------------------------------------------------------------------------

    def _require_room(self, requests: int) -> None:
        """Refuse requests that must not wait here."""
        if self._closed:
            raise ClosedError("this batcher has been closed: make a new one to go on")
        if len(self._line) + requests > self._max_pending:
            raise OverloadedError(
                f"{len(self._line)} requests wait already: tell the client to come back later (HTTP 503), "
                f"serve with more machines, or let more wait with max_pending"
            )

    def _wait(self, future: Future[Recommendations], timeout_s: float | None) -> Recommendations:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if not future.cancel() and future.done():  # it came at the last moment
                return future.result()
            raise RequestTimeoutError(TOO_LATE) from None

    def _forget(self, kind: Kind, number: int, done: Future[Recommendations]) -> None:
        """Drop a cancelled request, so that it neither takes a place in the line nor is computed."""
        if not done.cancelled():
            return
        with self._changed:
            removed = self._line.remove(kind, number)
            self._dropped += removed
        if removed:
            done.set_running_or_notify_cancel()

    # --- workers' threads -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            late, batch = self._take()
            if not late and not batch:
                return
            _fail(late, RequestTimeoutError, TOO_LATE)
            runnable = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            with self._changed:
                self._dropped += len(late) + len(batch) - len(runnable)
            if runnable:
                self._answer(runnable)

    def _take(self) -> tuple[list[Waiting], list[Waiting]]:
        """Requests past their time, and the next batch, when it is time for it; both empty when there will be none."""
        with self._changed:
            while not self._closed:
                if not self._line:
                    self._changed.wait()
                    continue
                patience = self._leave_at - time.monotonic()
                if len(self._line) >= self._expected or patience <= 0:
                    break
                self._changed.wait(patience)
            late = self._line.take_late(time.monotonic())
            return late, self._line.take(self._max_batch) if self._line else []

    def _answer(self, batch: Sequence[Waiting]) -> None:
        """Run a batch and hand the answers out. Should that fail, one by one: to each its own answer or error."""
        start = time.monotonic()
        self._free_at = start + self._batch_s
        try:
            answered = list(zip(batch, self._run(batch), strict=True))
        except Exception as error:  # of whatever kind: who waits for the answer must hear of it
            if len(batch) > 1:
                for waiting in batch:
                    self._answer([waiting])
                return
            self._note(batch, time.monotonic() - start)
            batch[0].future.set_exception(error)
            return
        self._note(batch, time.monotonic() - start)
        for waiting, answer in answered:
            waiting.future.set_result(answer)

    def _run(self, batch: Sequence[Waiting]) -> list[Recommendations]:
        kind = batch[0].kind
        return self._recommender.recommend_encoded(
            [waiting.request for waiting in batch], kind.k, kind.search, batch_size=len(batch)
        )

    def _note(self, batch: Sequence[Waiting], seconds: float) -> None:
        """Before the answers go out, so that no client is back yet and counted twice."""
        with self._changed:
            self._answered += len(batch)
            self._batches += 1
            self._times.append(seconds)
            self._batch_s = max(self._times)
            self._expected = min(self._max_batch, len(batch) + len(self._line))
            self._free_at = time.monotonic()
            self._leave_at = self._free_at + self._max_wait_s
        if self._on_batch is not None:
            self._on_batch(len(batch), seconds)


def _fail(requests: Sequence[Waiting], error: type[PodxError], message: str) -> None:
    """Let requests that were taken out of the line fail."""
    for waiting in requests:
        if waiting.future.set_running_or_notify_cancel():
            waiting.future.set_exception(error(message))
