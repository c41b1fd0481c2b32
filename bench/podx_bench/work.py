"""The work that every engine is given: requests in raw ids, written once to a file that all engine processes read.

Kept apart from :mod:`podx_bench.scenarios`, which makes it from a dataset, so that the process of an engine without torch
loads nothing of the training half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
        items: raw ids, best first; None where the generated text names no item of the catalogue.
        scores: of the items or of the text; empty where the engine computes none.
        text: the explanation; None for the other tasks.
    """

    items: tuple[str | None, ...] = ()
    scores: tuple[float, ...] = ()
    text: str | None = None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Answer:
        """From the plain values that :func:`dataclasses.asdict` gives."""
        return cls(tuple(content["items"]), tuple(content["scores"]), content["text"])


def write_work(path: Path, requests: Sequence[WorkItem]) -> None:
    """Write requests as JSON."""
    path.write_text(json.dumps([asdict(request) for request in requests], ensure_ascii=False), encoding="utf-8")


def read_work(path: Path) -> list[WorkItem]:
    """Read what :func:`write_work` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [WorkItem(raw["user"], tuple(raw["items"]), tuple(raw["exclude"])) for raw in content]
