"""A recommender that stands behind a queue: what every route asks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from podx.errors import ClosedError, ConfigError, OverloadedError, PodxError
from podx.recommender import Recommender
from podx.requests.types import ExplainRequest, Recommendations
from podx.server.forms import Explain, Items, Rank, Recommend, Sentence
from podx.server.metrics import Metrics
from podx.server.settings import Settings
from podx.serving.batcher import Batcher

Row = Recommend | Rank | Explain
Result = Recommendations | Sentence


class Explainer:
    """Explanations, in batches of those that wait, beside the lists of items."""

    def __init__(self, recommender: Recommender, settings: Settings) -> None:
        self._recommender, self._settings = recommender, settings
        self._line: dict[Future[Sentence], ExplainRequest] = {}  # in the order in which they came
        self._changed = threading.Lock()
        self._closed = False
        self._worker = ThreadPoolExecutor(1, "podx-explain")

    def submit(self, row: Explain) -> Future[Sentence]:
        """Put a request into the line; cancelling the future takes it out again.

        Raises:
            OverloadedError: as many wait as may.
        """
        future: Future[Sentence] = Future()
        with self._changed:
            if self._closed:
                raise ClosedError("the server ends: ask again, another one or later")
            if len(self._line) >= self._settings.max_pending:
                raise OverloadedError(f"{len(self._line)} explanations wait already: come back later")
            self._line[future] = ExplainRequest(row.user, row.item)
            self._worker.submit(self._run)
        future.add_done_callback(self._forget)
        return future

    def close(self) -> None:
        """Answer those that wait, and end."""
        with self._changed:
            self._closed = True
        self._worker.shutdown()

    def _forget(self, future: Future[Sentence]) -> None:
        with self._changed:
            self._line.pop(future, None)

    def _run(self) -> None:
        with self._changed:
            futures = list(islice(self._line, self._settings.max_batch))
            batch = {future: self._line.pop(future) for future in futures}
        running = [future for future in batch if future.set_running_or_notify_cancel()]
        try:
            sentences = self._explain([batch[future] for future in running])
        except PodxError:  # one of them: to each its own answer or error
            for future in running:
                try:
                    future.set_result(self._explain([batch[future]])[0])
                except Exception as error:
                    future.set_exception(error)
        except Exception as error:
            for future in running:
                future.set_exception(error)
        else:
            for future, sentence in zip(running, sentences, strict=True):
                future.set_result(sentence)

    def _explain(self, requests: list[ExplainRequest]) -> list[Sentence]:
        while True:
            version = self._recommender.version
            answers = self._recommender.explain_batch(requests, batch_size=self._settings.max_batch)
            if version == self._recommender.version:  # else who knows which of the two it was
                return [Sentence(answer.text, answer.score, version) for answer in answers]


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
        """Whether as many requests are here as may, or so many that one more would be answered too late."""
        stats, settings = self._batcher.stats, self.settings
        late = stats.waiting >= settings.max_batch and stats.expected_s > settings.timeout_s
        many = self.unanswered >= settings.max_pending + settings.max_batch
        return late or many or stats.waiting >= settings.max_pending

    def require_allowed(self, rows: Sequence[Row]) -> None:
        """Refuse, with a ConfigError, requests for more items than a client may ask for."""
        k = max((row.k for row in rows if not isinstance(row, Explain)), default=0)
        if k > self.settings.max_k:
            raise ConfigError(f"k is {k}, this server answers with at most {self.settings.max_k} items: ask for less")

    def submit(self, row: Row) -> Future[Any]:
        """Put a request into the queue.

        Returns:
            a future of a :data:`Result`; cancelling it takes the request out again.

        Raises:
            RequestError, ConfigError: it cannot be answered as asked. OverloadedError: as many wait as may.
        """
        if isinstance(row, Explain):
            return self._explainer.submit(row)
        seen = row.exclude_seen if isinstance(row, Recommend) else True
        return self._batcher.submit(row.request(), row.k, seen, timeout_s=self.settings.timeout_s)

    def answer(self, result: Result) -> Items | Sentence:
        """A result as clients get it."""
        if isinstance(result, Sentence):
            return result
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
