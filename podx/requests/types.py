"""What a caller asks for and what comes back. Raw ids everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

UserKind = Literal["known", "nearest", "mean"]
"""How a user was read: as itself; as the known users of the most similar history; as nobody, of whom nothing is known,
in place of whose prompt vectors stands the mean of all (where the model has any)."""


@dataclass(frozen=True)
class RecommendRequest:
    """The next item for a user.

    Attributes:
        user: raw id.
        history: raw ids, oldest first; None: the items known from the data the model was exported with.
        exclude: items that must not come back, beside the history.
        allow: the only items that may come back; None: the whole catalog.
    """

    user: str
    history: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    allow: Sequence[str] | None = None


@dataclass(frozen=True)
class RankRequest:
    """The best of some candidates for a user.

    Attributes:
        user: raw id. candidates: raw ids.
        exclude: candidates that must not come back.
        history: raw ids, oldest first; None: the items known from the data the model was exported with. One-pass models
            rank by it; others read the candidates, and a history only of users whom they do not know.
    """

    user: str
    candidates: Sequence[str]
    exclude: Sequence[str] = ()
    history: Sequence[str] | None = None


@dataclass(frozen=True)
class ExplainRequest:
    """Why an item suits a user."""

    user: str
    item: str


@dataclass(frozen=True)
class Recommendation:
    """An item and its score: Σ log p(token) ÷ length^penalty, so 0 is certainty and lower is less likely."""

    item: str
    score: float


class Recommendations(list[Recommendation]):
    """The answer to one request: a list, best first, that also says how sure it is.

    Attributes:
        exact: True: these are certainly the k permitted items to which the model gives the highest scores, as an
            exhaustive search would find them. False: the beam search may have missed one. None: not examined.
        user: how the user was read: ``known``, or as a cold-start user, see :data:`UserKind`.
        version: of the bundle that answered.
    """

    def __init__(
        self,
        items: Iterable[Recommendation] = (),
        exact: bool | None = None,
        user: UserKind = "known",
        version: str = "",
    ) -> None:
        super().__init__(items)
        self.exact = exact
        self.user = user
        self.version = version


@dataclass(frozen=True)
class GeneratedItem:
    """An answer of the unconstrained search. ``item``: None where the text names no item of the catalog."""

    text: str
    item: str | None
    score: float


@dataclass(frozen=True)
class Explanation:
    """A sentence and its score (as in :class:`Recommendation`). ``version``: of the bundle that answered."""

    text: str
    score: float
    version: str = ""
