"""What clients send and get: JSON bodies as typed structs, which the OpenAPI document describes as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from podx.errors import RequestError
from podx.recommender import DEFAULT_K
from podx.requests.types import RankRequest, Recommendation, RecommendRequest, UserKind

K = Annotated[int, Meta(ge=1, description="items wanted")]
Row = TypeVar("Row")


class Recommend(Struct, forbid_unknown_fields=True, kw_only=True):
    """The next items for a user.

    ``user`` may be left out where the history alone is read. ``history``: items, oldest first; none: those known at
    export. ``exclude``: items that must not come back; ``allow``: the only ones that may.
    """

    user: str = ""
    history: list[str] | None = None
    k: K = DEFAULT_K
    exclude: list[str] = []
    allow: list[str] | None = None
    exclude_seen: bool = True

    def request(self) -> RecommendRequest:
        """The same for the library."""
        return RecommendRequest(self.user, self.history, self.exclude, self.allow)


class Rank(Struct, forbid_unknown_fields=True, kw_only=True):
    """The best of some candidates for a user."""

    user: str = ""
    candidates: list[str]
    k: K = DEFAULT_K
    exclude: list[str] = []
    history: list[str] | None = None

    def request(self) -> RankRequest:
        """The same for the library."""
        return RankRequest(self.user, self.candidates, self.exclude, self.history)


class Explain(Struct, forbid_unknown_fields=True, kw_only=True):
    """One sentence on why an item suits a user."""

    user: str
    item: str


class Many(Struct, Generic[Row], forbid_unknown_fields=True):
    """Several requests, each answered for itself."""

    requests: Annotated[list[Row], Meta(min_length=1)]


class Items(Struct):
    """Items, best first. ``exact``: whether they are certainly the model's best; ``bundle``: version that answered."""

    items: Sequence[Recommendation]
    exact: bool | None
    user: UserKind
    bundle: str


class Sentence(Struct):
    """An explanation."""

    text: str
    score: float
    bundle: str


class Failure(Struct):
    """What is wrong and what to do about it, and the error's name."""

    error: str
    type: str


class Reload(Struct, forbid_unknown_fields=True):
    """``path``: a bundle in the folder that holds the served one; none: the served one, read again."""

    path: str | None = None


class Form(Generic[Row]):
    """Reads bodies that are one request, or ``{"requests": [...]}``."""

    def __init__(self, row: type[Row]) -> None:
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(Many[row])  # type: ignore[valid-type]

    def read(self, body: bytes) -> Row | Many[Row]:
        """The request or requests of a body.

        Raises:
            RequestError: the body is no JSON, or not of this form; the message says where.
        """
        try:
            try:
                return self._one.decode(body)
            except msgspec.ValidationError:
                if "requests" not in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
                    raise
            return self._many.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _unreadable(error) from error


def read(body: bytes, kind: type[Row]) -> Row:
    """A body of one form only.

    Raises:
        RequestError: the body is no JSON, or not of this form.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> RequestError:
    return RequestError(f"the body cannot be read ({error}): send JSON as /openapi.json describes it")
