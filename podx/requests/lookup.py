"""Raw ids of a request → checked numbers. Every error that a request can cause is raised here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from podx.bundle.bundle import Bundle
from podx.errors import (
    CandidatesError,
    ConfigError,
    HistoryError,
    RequestError,
    UnknownItemError,
    UnknownUserError,
    UnsupportedTaskError,
)
from podx.requests.batch import Numbers
from podx.requests.cold_start import SimilarUsers
from podx.requests.types import RankRequest, RecommendRequest, UserKind
from podx.text.inputs import UNKNOWN_USER
from podx.text.templates import Task

LongHistory = Literal["error", "keep-last"]
UnknownUser = Literal["error", "nearest"]
"""What to do about a user whom the model does not know: refuse, or read the most similar known users in its place."""

RESERVED_WHOLE_WORDS = 2
"""Whole-word rows that no item can take: one is for plain words, one for the user."""


@dataclass(frozen=True)
class ResolvedUser:
    """How the model reads a user.

    Attributes:
        number: the user written in the text; 0: none.
        rows: users whose own prompt vectors are averaged, for models that have them; 0 is the mean of all.
        kind: what that is, see :data:`podx.requests.types.UserKind`.
    """

    number: int
    rows: tuple[int, ...]
    kind: UserKind


class Lookup:
    """Finds the numbers of a bundle's users and items.

    Attributes:
        reads_history_alone: whether nothing of a user but the history is read, so that it does not matter who it is.

    Raises:
        ConfigError: there is no such way with unknown users.
    """

    def __init__(self, bundle: Bundle, long_history: LongHistory, unknown_user: UnknownUser = "error") -> None:
        if unknown_user not in ("error", "nearest"):
            raise ConfigError(f"unknown_user must be 'error' or 'nearest', not {unknown_user!r}")
        self._manifest = bundle.manifest
        self._task_ids = {task: bundle.manifest.task_id(task) for task in bundle.manifest.answered}
        self.reads_history_alone = bundle.manifest.one_pass and not bundle.manifest.user_prompts
        self._catalog, self._users = bundle.catalog, bundle.users
        self._long_history, self._unknown_user = long_history, unknown_user
        without = self._users.without_vectors
        self._without_vectors = frozenset(() if without is None else without.tolist())
        nearest = unknown_user == "nearest"
        self._similar = (
            SimilarUsers(self._users, np.array(sorted(self._without_vectors), np.int64)) if nearest else None
        )

    def resolve_user(self, raw: str, history: Numbers | None = None) -> ResolvedUser:
        """How the model is to read a user.

        Args:
            history: item numbers, where the request brings any; a cold-start user is read by them.

        Raises:
            UnknownUserError: the model does not know this user, and no known users may or can be read instead.
        """
        number = self._users.ids.number(raw)
        if number is None and history is not None and self.reads_history_alone:
            return ResolvedUser(UNKNOWN_USER, (UNKNOWN_USER,), "known")  # all that is read of anybody
        if number is None:
            if self._similar is None or history is None:
                raise self._unknown(raw)
            similar = tuple(self._similar.nearest(history).tolist())
            return ResolvedUser(similar[0], similar, "nearest") if similar else ResolvedUser(UNKNOWN_USER, (0,), "mean")
        if number not in self._without_vectors:
            return ResolvedUser(number, (number,), "known")
        items = self._users.history(number) if history is None else history
        similar = () if self._similar is None else tuple(self._similar.nearest(items).tolist())
        return ResolvedUser(number, similar or (0,), "nearest" if similar else "mean")

    def _unknown(self, raw: str) -> UnknownUserError:
        more = "load the bundle with unknown_user='nearest' and pass the user's history"
        if self._unknown_user == "nearest":
            more = "pass the user's history with the request"
        return UnknownUserError(
            f"user {raw!r} is not among the {len(self._users)} users this model knows: "
            f"use an id of the training data, train again with this user, or {more}"
        )

    def items(self, raw_ids: Sequence[str]) -> Numbers:
        """Numbers of items, int64 [items].

        Raises:
            UnknownItemError: the catalog lacks some of them.
            RequestError: one text was given, which would be read letter by letter.
        """
        if isinstance(raw_ids, str):
            raise RequestError(f"items must be a list of ids, not the text {raw_ids!r}: pass [{raw_ids!r}]")
        numbers = self._catalog.items.numbers(raw_ids)
        if None in numbers:
            unknown = [raw for raw, number in zip(raw_ids, numbers, strict=True) if number is None]
            raise UnknownItemError(
                f"{len(unknown)} of {len(raw_ids)} items are not in the catalog ({unknown[0]!r} among them): "
                f"leave them out, or export again with a catalog that has them"
            )
        return np.array(numbers, dtype=np.int64)

    def history_and_user(self, request: RecommendRequest | RankRequest) -> tuple[Numbers, ResolvedUser]:
        """The whole history of a request, oldest first (the model reads the end of it), and its user.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            HistoryError: no history is given or known, or it is longer than the model reads.
        """
        if request.history is not None and (self._unknown_user == "nearest" or self.reads_history_alone):
            history = self._given_history(request.user, request.history)
            return history, self.resolve_user(request.user, history)
        user = self.resolve_user(request.user)
        if request.history is not None:
            return self._given_history(request.user, request.history), user
        stored = self._users.history(user.number).astype(np.int64)
        if not len(stored):
            raise HistoryError(f"no history is known of user {request.user!r}: pass one")
        return stored, user

    def _given_history(self, user: str, raw_ids: Sequence[str]) -> Numbers:
        history = self.items(raw_ids)
        limit = self._manifest.max_history
        if not len(history) and not self._manifest.one_pass:  # which starts from the first token where there is none
            raise HistoryError(f"the history of user {user!r} is empty: pass at least one item, or None")
        if len(history) > limit and self._long_history == "error":
            raise HistoryError(
                f"the history of user {user!r} has {len(history)} items, the model reads {limit}: pass the "
                f"last {limit} and the others as exclude, or load the bundle with long_history='keep-last'"
            )
        return history

    def candidates(self, request: RankRequest) -> Numbers:
        """Candidates of a request.

        Raises:
            UnknownItemError: the catalog lacks some of them.
            CandidatesError: no candidates, one given twice, or more than the model reads.
        """
        candidates = self.items(request.candidates)
        if not len(candidates):
            raise CandidatesError("the candidate list is empty: pass at least one item")
        if len(np.unique(candidates)) < len(candidates):
            raise CandidatesError("an item occurs twice among the candidates: pass each once")
        limit = self._manifest.whole_word_rows - RESERVED_WHOLE_WORDS
        if len(candidates) > limit and not self._manifest.one_pass:  # which reads the history, not the candidates
            raise CandidatesError(f"{len(candidates)} candidates, but the model reads at most {limit}: split the list")
        return candidates

    def user_of_candidates(self, request: RankRequest) -> ResolvedUser:
        """The user of a request whose candidates alone are read.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            HistoryError: a history was given that nothing would read.
        """
        if request.history is None:
            return self.resolve_user(request.user)
        if self._unknown_user != "nearest":
            raise HistoryError(
                "this model ranks candidates without reading a history: leave it out, or load the bundle with "
                "unknown_user='nearest' to have an unknown user read by it"
            )
        return self.resolve_user(request.user, self._given_history(request.user, request.history))

    def task_id(self, task: Task) -> int:
        """Number of a task in the graphs.

        Raises:
            UnsupportedTaskError: the model was not trained for it.
        """
        number = self._task_ids.get(task)
        if number is None:
            tasks = self._manifest.tasks
            raise UnsupportedTaskError(
                f"this model was not trained for the {task} task (only {', '.join(tasks)}): "
                f"train one with --tasks {','.join([*tasks, task])}"
            )
        return number
