"""Sessions that are opened when they are first needed, of which only so many live."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Opened = TypeVar("Opened")


@dataclass
class _Place(Generic[Opened]):
    """Where one thing stands, and what guards its opening."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: Opened | None = None


class OpenedOnce(Generic[Key, Opened]):
    """What is opened once for each key. Who needs a thing that is being opened waits for it, and nobody else does.

    Args:
        open_: opens the thing of a key. most: how many are kept; of more, the one that was needed longest ago goes as
            soon as nobody uses it. None: all, where there are few keys.
    """

    def __init__(self, open_: Callable[[Key], Opened], most: int | None = None) -> None:
        self._open, self._most = open_, most
        self._places: OrderedDict[Key, _Place[Opened]] = OrderedDict()  # the one needed last stands last
        self._lock = threading.Lock()  # of the line above; nothing is opened under it

    def __getitem__(self, key: Key) -> Opened:
        with self._lock:
            place = self._places.get(key) or self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            if self._most is not None and len(self._places) > self._most:
                self._places.popitem(last=False)
        with place.lock:
            if place.opened is None:
                place.opened = self._open(key)
            return place.opened
