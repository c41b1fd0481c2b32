"""What an engine is to the bench, and the requests that every engine is given, in raw ids.

Nothing of the training half is imported here, so that the process of an engine without torch loads none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.text.inputs import Batch, EncodedInput
from podx.text.templates import ALL_TASKS, Task


@dataclass(frozen=True)
class WorkItem:
    """One request.

    Attributes:
        user: raw id.
        items: raw ids: the history, oldest first and cut to what the model reads; or the candidates; or the one item.
        exclude: raw ids that must not come back beside the history: the part of it that was cut off.
        history: raw ids of the history by which a one-pass model ranks candidates; None: candidates alone are read.
    """

    user: str
    items: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    history: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What an engine says to a request: a ranked list, or a text.

    Attributes:
        items: raw ids, best first; None where the generated text names no item of the catalog.
        text: the explanation; None for the other tasks.
    """

    items: tuple[str | None, ...] = ()
    text: str | None = None


class RequestReader:
    """Writes requests of a task as tokens, with the tokeniser, words and item texts of a bundle."""

    def __init__(self, bundle: Bundle, task: Task) -> None:
        self._encoder = bundle.input_encoder()
        self._bundle, self._task = bundle, task

    def items(self, raw_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Numbers of items; 0 for those that the bundle does not know."""
        return np.array([self._bundle.catalog.items.number(raw) or 0 for raw in raw_ids], dtype=np.int64)

    def encode(self, request: WorkItem) -> EncodedInput:
        """One request, end of sequence included; the prompt vectors that a model puts before it are not."""
        user = self._bundle.users.ids.number(request.user) or 0
        read = request.items if request.history is None else request.history
        return self._encoder.encode(self._task, user, self.items(read))

    def batch(self, requests: Sequence[WorkItem]) -> Batch:
        """Requests padded to the longest of them."""
        return self._encoder.collate([self.encode(request) for request in requests])

    def lengths(self, requests: Sequence[WorkItem]) -> npt.NDArray[np.int64]:
        """Tokens of each request, int64 [requests]."""
        return np.array([len(self.encode(request)) for request in requests], dtype=np.int64)


class Engine(Protocol):
    """Something that answers requests; made ready when it is constructed. Lives in a process of its own."""

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """Answer a batch, from raw ids to raw ids; the work is finished when this returns. This is what is timed."""


@dataclass(frozen=True)
class EngineContext:
    """What an engine is made from.

    Attributes:
        bundle: folder of the exported model; checkpoint: folder of the trained one.
        task: what it will be asked.
        threads: threads it may use; spin: whether those that wait may spin.
        beams: width of the item search; k: answers per request.
        batch_size: how many requests to run at a time where one call brings more, in whichever order suits the engine;
            None: run what a call brings as one batch.
    """

    bundle: Path
    task: Task
    device: str
    threads: int
    beams: int
    k: int
    checkpoint: Path | None = None
    spin: bool = False
    batch_size: int | None = None


@dataclass(frozen=True)
class EngineKind:
    """An engine that can be asked for by name.

    Attributes:
        name: on the command line and in every file; summary: what it is, for the report.
        make: builds it and loads its model. It imports its libraries itself: other engines' processes are free of them.
        tasks: what it can answer.
        needs_checkpoint: whether it reads the checkpoint rather than the bundle.
        slow: whether accuracy is measured on ``eager_users`` users only.
        reference: engine whose lists its own are compared with; None: it is the reference.
        writes_freely: whether it scores or writes tokens that no item has, which one-pass models have not learnt.
        speed_only: whether its answers are no recommendations, so that it takes no part in accuracy.
        bundle: folder of a bundle of its own; None: that of the run.
        loads: engine that its process loads, by name; None: this one. Names made for a run alone need it.
        prepare: makes what the engine loads, in the bench's own process, and returns the context for the engine's.
        interpreter: finds the Python that the engine's process runs on, or raises ConfigError; None: this one.
    """

    name: str
    summary: str
    make: Callable[[EngineContext], Engine]
    tasks: tuple[Task, ...] = ALL_TASKS
    needs_checkpoint: bool = False
    slow: bool = False
    reference: str | None = None
    writes_freely: bool = False
    speed_only: bool = False
    bundle: Path | None = None
    loads: str | None = None
    prepare: Callable[[EngineContext], EngineContext] | None = None
    interpreter: Callable[[], Path] | None = None
