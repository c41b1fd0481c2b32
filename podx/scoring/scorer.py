"""The function that all engines run: a table of users in, a table of their lists out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import podx
from podx.bundle.trie import NO_ITEM
from podx.errors import DataError, RequestError
from podx.recommender import DEFAULT_K
from podx.requests.encoder import EncodedRequest
from podx.requests.types import RecommendRequest
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx.text.templates import Task

USER, OPTIONAL_LISTS, ERROR = "user", ("history", "exclude", "allow"), "error"
LISTS = pa.schema(
    [
        (USER, pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float32()),
        ("exact", pa.bool_()),
        (ERROR, pa.string()),
    ]
)
"""Columns of the lists."""


class Scorer:
    """Makes lists of tables of users.

    The same table gives the same lists to the bit: which users are run together depends on nothing but the table.

    Args:
        bundle: the folder.
        k: items per user.
        exclude_seen: leave out the items of the history.
        batch_size: users that a graph is run for at once.
        loading: arguments of :func:`podx.load`: ``device``, ``threads``, ``long_history``, ``unknown_user`` and others.

    Raises:
        BundleError, ConfigError, DeviceError, UnsupportedTaskError: as :func:`podx.load`.
    """

    def __init__(
        self,
        bundle: str | Path,
        k: int = DEFAULT_K,
        exclude_seen: bool = True,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **loading: Any,
    ) -> None:
        recommender = podx.load(bundle, max_k=max(k, 1), tasks=[Task.SEQUENTIAL], **loading)
        recommender.check_k(k)
        self._snapshot, self.version = recommender.snapshot, recommender.version
        names = recommender.bundle.catalog.items.raw_ids.tolist()
        self._names = pa.array(names, pa.binary()).cast(pa.string())
        self._k, self._exclude_seen, self._batch_size = min(k, len(names)), exclude_seen, batch_size

    def __call__(self, users: pa.Table, done: Callable[[int], object] = lambda _: None) -> pa.Table:
        """The lists of the users, in their order.

        Args:
            users: a column ``user`` of raw ids, and where wanted ``history``, ``exclude`` and ``allow``, lists of raw
                ids that mean what they mean in :class:`podx.RecommendRequest`; null: as if it were not there.
            done: is told after each batch how many users were finished.

        Returns:
            A table of :data:`LISTS`, a row per item, best first from rank 1 on. A user who cannot be answered has one
            row with nothing but the ``error``; one of whom every item is excluded has one row with nothing.

        Raises:
            DataError: the table has no users, a column that is not known, or one of another type.
        """
        requests = _requests(users)
        encoded = [self._encode(request) for request in requests]
        items = np.full((len(requests), self._k), NO_ITEM, dtype=np.int64)
        scores = np.zeros(items.shape, dtype=np.float32)
        exact = np.full(len(requests), None)
        good = {row: request for row, request in enumerate(encoded) if isinstance(request, EncodedRequest)}
        by_length = sorted(good, key=lambda row: len(good[row].text))
        done(len(requests) - len(good))
        for first in range(0, len(good), self._batch_size):
            rows = by_length[first : first + self._batch_size]
            found = self._snapshot.search_items([good[row] for row in rows], self._k)
            items[rows], scores[rows] = found.items, found.scores
            if found.exact is not None:
                exact[rows] = found.exact.tolist()
            done(len(rows))
        errors = [None if row in good else error for row, error in enumerate(encoded)]
        return self._lists([request.user for request in requests], items, scores, exact, errors)

    def _encode(self, request: RecommendRequest) -> EncodedRequest | str:
        """The request by number, or what is wrong with it."""
        try:
            _check_ids(request)
            return self._snapshot.requests.encode(request, self._exclude_seen)
        except RequestError as error:
            return f"{type(error).__name__}: {error}"

    def _lists(self, users: list[str], items: Any, scores: Any, exact: Any, errors: list[Any]) -> pa.Table:
        """A row per item, one for who has none. ``items``, ``scores``: [users, k], best first, then no items."""
        counts = (items != NO_ITEM).sum(axis=1)
        exact[counts == 0] = None
        counts = np.maximum(counts, 1)
        owner = np.repeat(np.arange(len(users)), counts)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        item, none = items[owner, place], items[owner, place] == NO_ITEM
        columns = (
            pa.array(users, pa.string()).take(owner),
            pa.array(place + 1, pa.int32(), mask=none),
            self._names.take(pa.array(item - 1, mask=none)),
            pa.array(scores[owner, place], pa.float32(), mask=none),
            pa.array(exact.tolist(), pa.bool_()).take(owner),
            pa.array(errors, pa.string()).take(owner),
        )
        return pa.table(list(columns), schema=LISTS)


def _check_ids(request: RecommendRequest) -> None:
    """Parquet has nulls everywhere, requests do not."""
    if request.user is None:
        raise RequestError("the user is null: give its raw id")
    if any(None in ids for ids in (request.history, request.exclude, request.allow) if ids):
        raise RequestError("a list of items holds a null: leave it out")


def check_columns(schema: pa.Schema) -> None:
    """Refuse a table that :class:`Scorer` does not read.

    Raises:
        DataError: it has no column of users, a column that is not known, or one of another type.
    """
    unknown = sorted(set(schema.names) - {USER, *OPTIONAL_LISTS})
    if unknown:
        known = ", ".join((USER, *OPTIONAL_LISTS))
        raise DataError(f"column {unknown[0]!r} is none of {known}: leave it out or rename it")
    if USER not in schema.names:
        raise DataError(f"there is no column {USER!r} of raw ids: rename the one that holds them")
    for field in schema:
        if field.name == USER and not _holds_ids(field.type):
            raise DataError(f"column {USER!r} holds {field.type}, not text or integers: cast it before")
        if field.name != USER and not _holds_lists(field.type):
            raise DataError(f"column {field.name!r} holds {field.type}, not lists of text or integers: cast it before")


def _requests(table: pa.Table) -> list[RecommendRequest]:
    """A request for each row."""
    check_columns(table.schema)
    lists = pa.list_(pa.string())
    users, *others = (
        table.column(name).cast(kind).to_pylist() if name in table.column_names else [None] * len(table)
        for name, kind in ((USER, pa.string()), *((name, lists) for name in OPTIONAL_LISTS))
    )
    rows = zip(users, *others, strict=True)
    return [RecommendRequest(user, history, exclude or (), allow) for user, history, exclude, allow in rows]


def _holds_lists(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_ids(kind.value_type) or bool(pa.types.is_null(kind.value_type))  # the latter: all are empty
    return bool(pa.types.is_null(kind))  # pandas has no other type for a column of nothing


def _holds_ids(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_ids(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))
