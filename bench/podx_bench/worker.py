"""The process of one engine: ``python -m podx_bench.worker``.

It reads one JSON object per line from stdin and writes one per line to its original stdout; whatever libraries print
goes to stderr. Between requests it waits on stdin and uses no processor time. Requests:

- ``{"do": "load", "engine": …, "context": …, "work": path}`` → ``{}``, after the first answer has been computed;
- ``{"do": "time", "batches": [[row, …], …]}`` → ``{"ms": [per batch], "peak_rss_mb": …}``;
- ``{"do": "answer", "rows": [row, …]}`` → ``{"answers": […], "seconds": …}``;
- ``{"do": "quit"}``.

A fault the user can mend comes back as ``{"error": name of its class, "message": …}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import psutil

from podx.errors import PodxError
from podx_bench.engines import Engine, EngineContext, EngineError, engine_kind
from podx_bench.work import Answer, Work, WorkItem

MILLISECONDS = 1e3
MEGABYTE = 1e6
KIBIBYTE = 1024


class Worker:
    """An engine with the work it will be asked about."""

    def __init__(self, engine: str, context: EngineContext, work: Path) -> None:
        """Load the engine and let it answer once, so that nothing is left to be loaded later."""
        self._requests = Work(work)
        self._engine: Engine = engine_kind(engine).make(context)
        self._run([0])

    def time(self, batches: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Time one call per batch."""
        taken = []
        gc.collect()
        for rows in batches:
            requests = self._of(rows)
            start = time.perf_counter()
            answers = self._engine.run(requests)
            taken.append((time.perf_counter() - start) * MILLISECONDS)
            _require_all(answers, requests)
        return {"ms": taken, "peak_rss_mb": peak_rss_mb()}

    def answer(self, rows: Sequence[int]) -> dict[str, Any]:
        """Answers of one call."""
        start = time.perf_counter()
        answers = self._run(rows)
        return {"answers": [asdict(answer) for answer in answers], "seconds": time.perf_counter() - start}

    def _of(self, rows: Sequence[int]) -> list[WorkItem]:
        return [self._requests[row] for row in rows]

    def _run(self, rows: Sequence[int]) -> list[Answer]:
        requests = self._of(rows)
        answers = self._engine.run(requests)
        _require_all(answers, requests)
        return answers


def _require_all(answers: Sequence[Answer], requests: Sequence[WorkItem]) -> None:
    if len(answers) != len(requests):
        raise EngineError(f"{len(answers)} answers to {len(requests)} requests: the engine is at fault")


def peak_rss_mb() -> float:
    """Most memory this process has held so far, MB (10^6 bytes), loading included."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIBIBYTE / MEGABYTE
    return float(psutil.Process().memory_info().rss) / MEGABYTE


def _protocol_stream() -> TextIO:
    """The original stdout; from now on descriptor 1 is stderr, so that no library's print disturbs the protocol."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until ``quit`` or the end of the input."""
    worker: Worker | None = None
    for line in requests:
        asked = json.loads(line)
        if asked["do"] == "quit":
            return
        try:
            if asked["do"] == "load":
                worker = Worker(asked["engine"], EngineContext.from_json(asked["context"]), Path(asked["work"]))
                reply: dict[str, Any] = {}
            elif worker is None:
                raise EngineError(f"asked to {asked['do']} before load")
            else:
                reply = worker.time(asked["batches"]) if asked["do"] == "time" else worker.answer(asked["rows"])
        except PodxError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, _protocol_stream())
