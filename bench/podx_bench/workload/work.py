"""The work that every engine is given: requests in raw ids, written once to a file that all engine processes read.

Kept apart from :mod:`podx_bench.scenarios`, which makes it from a dataset, so that the process of an engine without
torch loads nothing of the training half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_LISTS = ("items", "exclude")


@dataclass(frozen=True)
class WorkItem:
    """One request.

    Attributes:
        user: raw id.
        items: raw ids: the history, oldest first and cut to what the model reads; or the candidates; or the one item.
        exclude: raw ids that must not come back beside the history: the part of it that was cut off.
    """

    user: str
    items: tuple[str, ...]
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What an engine says to a request: a ranked list, or a text.

    Attributes:
        items: raw ids, best first; None where the generated text names no item of the catalog.
        scores: of the items or of the text; empty where the engine computes none.
        text: the explanation; None for the other tasks.
    """

    items: tuple[str | None, ...] = ()
    scores: tuple[float, ...] = ()
    text: str | None = None


def write_work(path: Path, requests: Sequence[WorkItem]) -> None:
    """Write requests as ``.npz``: one table of raw ids, and numbers into it."""
    table: dict[str, int] = {}
    users = [table.setdefault(request.user, len(table)) for request in requests]
    arrays = {"users": np.array(users, dtype=np.int32)}
    for name in _LISTS:
        lists = [getattr(request, name) for request in requests]
        flat = [table.setdefault(raw, len(table)) for raw_ids in lists for raw in raw_ids]
        arrays[name] = np.array(flat, dtype=np.int32)
        arrays[f"{name}_start"] = np.concatenate([[0], np.cumsum([len(raw_ids) for raw_ids in lists])])
    arrays["raw_ids"] = np.array([raw.encode() for raw in table], dtype=np.bytes_)
    np.savez(path, **arrays)  # type: ignore[arg-type]


class Work:
    """What :func:`write_work` wrote. A request is made when it is looked at, so holding many costs little memory."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._arrays = dict(arrays)

    def __len__(self) -> int:
        return len(self._arrays["users"])

    def __getitem__(self, row: int) -> WorkItem:
        user = bytes(self._arrays["raw_ids"][self._arrays["users"][row]]).decode()
        return WorkItem(user, self._list("items", row), self._list("exclude", row))

    def _list(self, name: str, row: int) -> tuple[str, ...]:
        first, last = self._arrays[f"{name}_start"][row : row + 2]
        return tuple(bytes(raw).decode() for raw in self._arrays["raw_ids"][self._arrays[name][first:last]])
