"""Requests that wait for a batch: who may run with whom, and who goes next. No threads here."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from podx.decoding.options import ItemSearchOptions
from podx.requests.encoder import EncodedRequest
from podx.requests.types import Recommendations
from podx.text.templates import Task


class Kind(NamedTuple):
    """What requests must share to run in one call."""

    task: Task
    k: int
    search: ItemSearchOptions


@dataclass(eq=False, slots=True)
class Waiting:
    """A request that waits.

    Attributes:
        kind: what it may be merged with.
        request: looked up and written as tokens.
        future: where its answer goes.
        deadline: time by ``time.monotonic`` after which it is not run.
        number: place in the order of arrival, once it is in the line.
        passed_over: it was cut into a batch that goes next, though others went before it.
    """

    kind: Kind
    request: EncodedRequest
    future: Future[Recommendations]
    deadline: float = math.inf
    number: int = 0
    passed_over: bool = False

    @property
    def length(self) -> int:
        """Tokens that the model reads, which the cost of a request grows with."""
        return len(self.request.text)


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

    def remove(self, kind: Kind, number: int) -> bool:
        """Take a request out; whether it was still there."""
        same = self._kinds.get(kind, {})
        if same.pop(number, None) is None:
            return False
        if not same:
            del self._kinds[kind]
        self._length -= 1
        return True

    def take_late(self, now: float) -> list[Waiting]:
        """Those whose deadline is over, whatever their kind."""
        late = [waiting for same in self._kinds.values() for waiting in same.values() if waiting.deadline <= now]
        for waiting in late:
            self.remove(waiting.kind, waiting.number)
        return late

    def take(self, most: int) -> list[Waiting]:
        """The request that waits longest, and those of its kind to run with it.

        Where enough wait for two full batches, these are cut from them in the order of length, so that little is
        padded. The one with the oldest request goes now and the other next, so nobody is passed over twice. With
        fewer, length does not matter: who came first goes first.
        """
        same = min(self._kinds.values(), key=lambda group: next(iter(group)))
        longest = list(islice(same.values(), 2 * most))
        if len(longest) == 2 * most and not longest[0].passed_over:
            by_length = sorted(longest, key=lambda waiting: (waiting.length, waiting.number))
            first = 0 if by_length.index(longest[0]) < most else most
            chosen = by_length[first : first + most]
            for waiting in by_length[:first] + by_length[first + most :]:
                waiting.passed_over = True
        else:
            chosen = longest[:most]
        for waiting in chosen:
            self.remove(waiting.kind, waiting.number)
        return chosen

    def clear(self) -> list[Waiting]:
        """All of them; none is left."""
        everyone = [waiting for same in self._kinds.values() for waiting in same.values()]
        self._kinds, self._length = {}, 0
        return everyone
