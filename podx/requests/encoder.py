"""Requests as ``recommend.onnx`` reads them: token ids and item numbers. Needs no ONNX Runtime.

:class:`podx.Recommender` asks here before every search. A service in another language runs a graph that writes the
tokens itself (:mod:`podx.graphs.numbers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.bundle.trie import NO_ITEM
from podx.errors import ConfigError
from podx.requests.batch import ItemBatch, Numbers
from podx.requests.lookup import LongHistory, Lookup, ResolvedUser, UnknownUser
from podx.requests.types import ExplainRequest, RankRequest, RecommendRequest, UserKind
from podx.text.inputs import EncodedInput
from podx.text.templates import Task


@dataclass(frozen=True)
class EncodedRequest:
    """A request for items, by number.

    Attributes:
        request, exclude_seen: what it was written from.
        version: of the bundle whose numbers these are.
        text: tokens, end of sequence included.
        task: what is asked for; ``task_id``: its number in the graphs.
        denied: int64 [denied], items never to be returned; some may occur twice.
        allowed: int64 [allowed], the only items that may be; None: the whole catalog.
        user: how the user was read.
    """

    request: RecommendRequest | RankRequest
    exclude_seen: bool
    version: str
    text: EncodedInput
    task: Task
    task_id: int
    denied: Numbers
    allowed: Numbers | None
    user: UserKind = "known"


def allowed_row(allowed: npt.NDArray[np.integer] | None) -> Numbers:
    """A row of the graph's ``allowed_items``: empty where all items are, else their numbers and :data:`NO_ITEM`.

    The graph takes an empty row for no limit, so a list of no items needs an entry that is none.
    """
    return np.zeros(0, dtype=np.int64) if allowed is None else np.append(allowed, NO_ITEM).astype(np.int64, copy=False)


class RequestEncoder:
    """Looks raw ids up and writes requests as tokens. Safe to share between threads."""

    def __init__(
        self, bundle: Bundle, long_history: LongHistory = "error", unknown_user: UnknownUser = "error"
    ) -> None:
        self.lookup = Lookup(bundle, long_history, unknown_user)
        self.inputs = bundle.input_encoder()
        self.reads_user_rows = bundle.manifest.user_prompts > 0
        self._one_pass, self._max_history = bundle.manifest.one_pass, bundle.manifest.max_history
        self._version, self._most = bundle.version, len(bundle.catalog)

    def encode(self, request: RecommendRequest | RankRequest, exclude_seen: bool = True) -> EncodedRequest:
        """A request and its limits. ``exclude_seen``: deny the items of the history as well.

        Raises:
            RequestError: of the kind that names what is wrong with the request.
        """
        task, items, user = self._task_items_user(request)
        text = self._write(task, user, items)
        denied = self.lookup.items(request.exclude)
        allowed: Numbers | None
        if isinstance(request, RankRequest):
            allowed = self.lookup.candidates(request) if self._one_pass else items
        else:
            allowed = None if request.allow is None else self.lookup.items(request.allow)
            if exclude_seen:
                denied = np.concatenate([denied, items]) if len(denied) else items
        source = request, exclude_seen, self._version
        return EncodedRequest(*source, text, task, self.lookup.task_id(task), denied, allowed, user.kind)

    def renewed(self, encoded: EncodedRequest) -> EncodedRequest:
        """The same request by this bundle's numbers, whichever bundle encoded it.

        Raises:
            RequestError: as :meth:`encode`.
        """
        same = encoded.version == self._version
        return encoded if same else self.encode(encoded.request, encoded.exclude_seen)

    def text(self, request: RecommendRequest | RankRequest) -> EncodedInput:
        """A request without its limits, for a search that knows none.

        Raises:
            RequestError: of the kind that names what is wrong with the request.
        """
        task, items, user = self._task_items_user(request)
        return self._write(task, user, items)

    def batch(self, requests: Sequence[EncodedRequest], k: int) -> ItemBatch:
        """Requests of one task, padded to the longest of them. ``k``: answers wanted; there are at most all items."""
        text = self.inputs.collate([request.text for request in requests])
        denied, allowed = [request.denied for request in requests], [request.allowed for request in requests]
        return ItemBatch(text, requests[0].task_id, denied, allowed, min(k, self._most))

    def explanation(self, request: ExplainRequest) -> EncodedInput:
        """A request for an explanation.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            UnsupportedTaskError: the model was not trained for this task.
        """
        user = self.lookup.resolve_user(request.user)
        return self._write(Task.EXPLANATION, user, self.lookup.items([request.item]))

    def _task_items_user(self, request: RecommendRequest | RankRequest) -> tuple[Task, Numbers, ResolvedUser]:
        """The task, the items that the model reads for it, and the user."""
        task = task_of(request)
        if isinstance(request, RankRequest) and not self._one_pass:
            return task, self.lookup.candidates(request), self.lookup.user_of_candidates(request)
        return task, *self.lookup.history_and_user(request)

    def _write(self, task: Task, user: ResolvedUser, items: Numbers) -> EncodedInput:
        self.lookup.task_id(task)  # an unsupported task is named before anything is run
        by_history = task is Task.SEQUENTIAL or (self._one_pass and task is Task.TOPN)
        text = self.inputs.encode(task, user.number, items[-self._max_history :] if by_history else items)
        return text if user.rows == (user.number,) else replace(text, user_rows=user.rows)


def task_of(request: RecommendRequest | RankRequest) -> Task:
    """What a request asks for."""
    return Task.TOPN if isinstance(request, RankRequest) else Task.SEQUENTIAL


def common_task(tasks: Iterable[Task]) -> Task:
    """The task of all requests of a call; of none, sequential recommendation.

    Raises:
        ConfigError: the requests are not all of one kind.
    """
    kinds = set(tasks)
    if len(kinds) > 1:
        raise ConfigError("RecommendRequest and RankRequest are different tasks: pass each kind in its own call")
    return kinds.pop() if kinds else Task.SEQUENTIAL
