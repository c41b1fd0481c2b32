"""Requests that wait for a batch: who may run with whom, and who goes next. No threads here."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

from podx.decoding.options import ItemSearchOptions
from podx.requests.types import RankRequest, Recommendations, RecommendRequest
from podx.text.templates import Task

Request = RecommendRequest | RankRequest


@dataclass(frozen=True)
class Kind:
    """What requests must share to run in one call."""

    task: Task
    k: int
    exclude_seen: bool
    search: ItemSearchOptions | None


@dataclass(eq=False, slots=True)
class Waiting:
    """A request that waits.

    Attributes:
        number: place in the order of arrival.
        kind: what it may be merged with.
        length: items the model reads for it.
        future: where its answer goes.
        passed_over: it was cut into a batch that goes next, though others went before it.
    """

    number: int
    kind: Kind
    request: Request
    length: int
    future: Future[Recommendations]
    passed_over: bool = False


class Line:
    """Requests that wait, by kind, in the order in which they came. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, dict[int, Waiting]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, waiting: Waiting) -> None:
        """Put a request at the end. Its number must be the highest so far."""
        self._kinds.setdefault(waiting.kind, {})[waiting.number] = waiting
        self._length += 1

    def remove(self, waiting: Waiting) -> bool:
        """Whether it was still there."""
        same = self._kinds.get(waiting.kind, {})
        if same.pop(waiting.number, None) is None:
            return False
        if not same:
            del self._kinds[waiting.kind]
        self._length -= 1
        return True

    def take(self, most: int) -> list[Waiting]:
        """The request that waits longest, and those of its kind to run with it.

        Where enough wait for two full batches, these are cut from them in the order of length, so that little is
        padded. The one with the oldest request goes now and the other next, so nobody is passed over twice. With
        fewer, length does not matter: who came first goes first.
        """
        same = min(self._kinds.values(), key=lambda group: next(iter(group)))
        longest = list(islice(same.values(), 2 * most))
        if len(longest) == 2 * most and not longest[0].passed_over:
            by_length = sorted(longest, key=lambda one: (one.length, one.number))
            first = 0 if by_length.index(longest[0]) < most else most
            chosen = by_length[first : first + most]
            for one in by_length[:first] + by_length[first + most :]:
                one.passed_over = True
        else:
            chosen = longest[:most]
        for one in chosen:
            self.remove(one)
        return chosen

    def clear(self) -> list[Waiting]:
        """All of them; none is left."""
        everyone = [one for same in self._kinds.values() for one in same.values()]
        self._kinds, self._length = {}, 0
        return everyone
