"""An engine in a process of its own: the parent's handle on it, and the object that lives in it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from podx_bench.engines import EngineContext, engine_kind
from podx_bench.harness.child import CALL_TIMEOUT_S, Child, EngineError, thread_environment
from podx_bench.harness.resources import MILLISECONDS, peak_rss_mb, timed
from podx_bench.workload.work import Answer, WorkItem


@dataclass(frozen=True)
class Timing:
    """Of one turn. ``ms``: per call; ``peak_rss_mb``: of the process so far."""

    ms: tuple[float, ...]
    peak_rss_mb: float


class EngineProcess(Child):
    """The parent's handle on an engine. A context manager: leaving it ends the process.

    Args:
        requests: what it may be asked, by number; each is sent when it is asked, so the process holds no others.
        call_timeout: seconds after which a call is given up.
        loads: engine that the process loads, where ``name`` is one of this run alone.

    Raises:
        ConfigError: the engine's interpreter is missing.
        PodxError: the engine cannot be loaded; of the kind that its process raised.
    """

    def __init__(
        self,
        name: str,
        context: EngineContext,
        requests: Sequence[WorkItem],
        call_timeout: float = CALL_TIMEOUT_S,
        loads: str = "",
    ) -> None:
        self._requests = requests
        kind = engine_kind(loads or name)
        super().__init__(
            "podx_bench.engines.process:EngineServer",
            loads or name,
            kind.prepare(context) if kind.prepare else context,
            requests[0],
            name=f"engine {name}",
            advice="ask for fewer users or smaller batches, or leave the engine out of --engines",
            environment=thread_environment(context.threads, context.spin),
            interpreter=kind.interpreter() if kind.interpreter else None,
            timeout=call_timeout,
        )

    def time(self, batches: Sequence[Sequence[int]]) -> Timing:
        """Time one call per batch of request numbers."""
        return self.call("time", [self._chosen(rows) for rows in batches], returns=Timing)

    def answer(self, rows: Sequence[int]) -> tuple[list[Answer], float]:
        """Answers to requests, one call for all, and the seconds it took."""
        return self.call("answer", self._chosen(rows), returns=tuple[list[Answer], float])

    def _chosen(self, rows: Sequence[int]) -> list[WorkItem]:
        return [self._requests[row] for row in rows]


class EngineServer:
    """Loads an engine and lets it answer once, so that nothing is left to be loaded later."""

    def __init__(self, engine: str, context: EngineContext, sample: WorkItem) -> None:
        self._engine = engine_kind(engine).make(context)
        self.answer([sample])

    def time(self, batches: list[list[WorkItem]]) -> Timing:
        """Time one call per batch."""
        gc.collect()
        return Timing(tuple(self.answer(requests)[1] * MILLISECONDS for requests in batches), peak_rss_mb())

    def answer(self, requests: list[WorkItem]) -> tuple[list[Answer], float]:
        """Answers of one call, and its seconds."""
        answers, ms = timed(lambda: self._engine.run(requests))
        if len(answers) != len(requests):
            raise EngineError(f"{len(answers)} answers to {len(requests)} requests: the engine is at fault")
        return answers, ms / MILLISECONDS
