"""The object that lives in an engine's process: an engine with the requests that it will be asked."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podx_bench.engines import EngineContext, engine_kind
from podx_bench.harness.child import EngineError
from podx_bench.harness.memory import peak_rss_mb
from podx_bench.workload.work import Answer, Work

SERVER = "podx_bench.engines.server:EngineServer"
MILLISECONDS = 1e3


@dataclass(frozen=True)
class Timing:
    """Of one turn. ``ms``: per call; ``peak_rss_mb``: of the process so far."""

    ms: tuple[float, ...]
    peak_rss_mb: float


@dataclass(frozen=True)
class TimedAnswers:
    """Answers of one call, and the seconds it took."""

    answers: tuple[Answer, ...]
    seconds: float


class EngineServer:
    """Loads an engine and lets it answer once, so that nothing is left to be loaded later.

    Args:
        engine: name of its kind.
        work: file of requests, see :mod:`podx_bench.workload.work`.
    """

    def __init__(self, engine: str, context: EngineContext, work: Path) -> None:
        self._requests = Work(work)
        self._engine = engine_kind(engine).make(context)
        self.answer([0])

    def time(self, batches: list[list[int]]) -> Timing:
        """Time one call per batch of request numbers."""
        gc.collect()
        taken = [self._run(rows)[1] * MILLISECONDS for rows in batches]
        return Timing(tuple(taken), peak_rss_mb())

    def answer(self, rows: list[int]) -> TimedAnswers:
        """Answers of one call."""
        return TimedAnswers(*self._run(rows))

    def _run(self, rows: Sequence[int]) -> tuple[tuple[Answer, ...], float]:
        """Answers of one call, and its seconds."""
        requests = [self._requests[row] for row in rows]
        start = time.perf_counter()
        answers = self._engine.run(requests)
        seconds = time.perf_counter() - start
        if len(answers) != len(requests):
            raise EngineError(f"{len(answers)} answers to {len(requests)} requests: the engine is at fault")
        return tuple(answers), seconds
