"""``podx score`` in a process of its own, over a model that runs no graph."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["podx.scoring.run", "tests.podx.fakes"]


def _score(arguments: tuple[Any, ...]) -> None:
    import podx.snapshot
    from podx.scoring.run import score
    from tests.podx.fakes import FakeGraphModel

    podx.snapshot.GraphModel = FakeGraphModel  # type: ignore[assignment,misc]
    score(*arguments, resume=True, device="cpu")


def begin(*arguments: Any) -> BaseProcess:
    """Begin a run, or go on with one; it is forked from a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_score, args=(arguments,))
    process.start()
    return process


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
