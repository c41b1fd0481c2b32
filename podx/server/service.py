"""A recommender that stands behind a queue: what every route asks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from podx.errors import ClosedError, ConfigError, OverloadedError, PodxError
from podx.recommender import Recommender
from podx.requests.types import ExplainRequest, Explanation, Recommendations
from podx.server.forms import Explain, Items, Rank, Recommend, Sentence
from podx.server.metrics import Metrics
from podx.server.settings import Settings
from podx.serving.batcher import Batcher
from podx.serving.queue import Waiting

Row = Recommend | Rank | Explain


class Question(NamedTuple):
    """A request for an explanation, and where its answer goes."""

    request: ExplainRequest
    future: Future[Explanation]


class Explainer:
    """Explanations, in batches of those that wait, beside the lists of items."""

    def __init__(self, recommender: Recommender, settings: Settings) -> None:
        self._recommender, self._settings = recommender, settings
        self._line: dict[Future[Explanation], Question] = {}  # in the order in which they came
        self._changed = threading.Lock()
        self._closed = False
        self._worker = ThreadPoolExecutor(1, "podx-explain")

    def enter(self, questions: Sequence[Question]) -> None:
        """Put requests into the line; cancelling a future takes its request out again.

        Raises:
            OverloadedError: there are not places for all. ClosedError: the server ends.
        """
        with self._changed:
            if self._closed:
                raise ClosedError("the server ends: ask again, another one or later")
            if len(self._line) + len(questions) > self._settings.max_pending:
                raise OverloadedError(f"{len(self._line)} explanations wait already: come back later")
            for question in questions:
                self._line[question.future] = question
                self._worker.submit(self._run)
        for question in questions:
            question.future.add_done_callback(self._forget)

    def close(self) -> None:
        """Answer those that wait, and end."""
        with self._changed:
            self._closed = True
        self._worker.shutdown()

    def _forget(self, future: Future[Explanation]) -> None:
        with self._changed:
            self._line.pop(future, None)

    def _run(self) -> None:
        with self._changed:
            futures = list(islice(self._line, self._settings.max_batch))
            batch = [self._line.pop(future) for future in futures]
        self._answer([question for question in batch if question.future.set_running_or_notify_cancel()])

    def _answer(self, batch: Sequence[Question]) -> None:
        """To each its answer. Should that fail, one by one: to each its own answer or error."""
        try:
            requests = [question.request for question in batch]
            answers = self._recommender.explain_batch(requests, batch_size=self._settings.max_batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for question in batch:
                self._answer([question])
        else:
            for question, answer in zip(batch, answers, strict=True):
                question.future.set_result(answer)


class Service:
    """Queues requests, counts answers, and takes other bundles over. Safe to share between threads.

    Attributes:
        ready: whether more requests should be sent here.
        unanswered: HTTP requests for lists of items that have not been responded to; of the event loop alone.
    """

    def __init__(self, recommender: Recommender, settings: Settings) -> None:
        self.recommender, self.settings = recommender, settings
        self.metrics = Metrics(lambda: self._batcher.stats.waiting, lambda: recommender.version)
        self._batcher = Batcher(
            recommender, settings.max_batch, settings.max_wait_ms, settings.max_pending, on_batch=self.metrics.batch
        )
        self._explainer = Explainer(recommender, settings)
        self._root = recommender.bundle.path.absolute()
        self.ready, self.unanswered = True, 0

    @property
    def full(self) -> bool:
        """Whether as many requests are here as may, or one more would be answered too late."""
        stats, settings = self._batcher.stats, self.settings
        late = stats.wait_s > 0 and stats.wait_s + stats.batch_s > settings.timeout_s
        many = self.unanswered >= settings.max_pending + settings.max_batch
        return late or many or stats.waiting >= settings.max_pending

    def require_allowed(self, k: int) -> None:
        """Refuse, with a ConfigError, requests for more items than a client may ask for."""
        if k > self.settings.max_k:
            raise ConfigError(f"k is {k}, this server answers with at most {self.settings.max_k} items: ask for less")

    def prepare(self, row: Row) -> Waiting | Question:
        """Look a request up for :meth:`submit`. Its answer, for :meth:`answer`, will come to ``future`` of the result.

        Raises:
            RequestError, ConfigError: it cannot be answered as asked. OverloadedError: as many wait as may.
        """
        if isinstance(row, Explain):
            return Question(ExplainRequest(row.user, row.item), Future())
        seen = row.exclude_seen if isinstance(row, Recommend) else True
        return self._batcher.prepare(row.request(), row.k, seen, timeout_s=self.settings.timeout_s)

    def submit(self, prepared: Sequence[Waiting | Question]) -> None:
        """Put requests of one kind into the queue together; cancelling a future takes its request out again.

        Raises:
            OverloadedError: there are not places for all.
        """
        self._batcher.enter([each for each in prepared if isinstance(each, Waiting)])
        self._explainer.enter([each for each in prepared if isinstance(each, Question)])

    def answer(self, result: Recommendations | Explanation) -> Items | Sentence:
        """A result as clients get it."""
        if isinstance(result, Explanation):
            return Sentence(result.text, result.score, result.version)
        self.metrics.answer(result)
        return Items(result, result.exact, result.user, result.version)

    def swap(self, path: str | None = None) -> str:
        """Answer from another bundle from now on; where it does not load, the one that answers goes on.

        Args:
            path: a folder beside the one that was served first, or within it; None: that one, read again.

        Returns:
            the version of the bundle that answers now.

        Raises:
            ConfigError: the path leads elsewhere. BundleError: the bundle is refused.
        """
        folder = self._root if path is None else self._beside(path)
        try:
            self.recommender.swap(folder)
        except PodxError:
            self.metrics.swap("refused")
            raise
        self.metrics.swap("taken")
        return self.recommender.version

    def _beside(self, path: str) -> Path:
        shelf = self._root.parent.resolve()
        try:
            folder = (shelf / path).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null character, links in a ring
            raise ConfigError(f"path is none ({error}): name a folder beside the served bundle") from error
        if not folder.is_relative_to(shelf):
            raise ConfigError("path leads out of the folder that holds the served bundle: put the new bundle beside it")
        return folder

    def close(self) -> None:
        """Answer what waits, and take no more."""
        self.ready = False
        self._batcher.close()
        self._explainer.close()
