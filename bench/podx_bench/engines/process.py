"""The parent's handle on an engine's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from podx_bench.engines import EngineContext, engine_kind
from podx_bench.engines.server import SERVER, TimedAnswers, Timing
from podx_bench.harness.child import CALL_TIMEOUT_S, Child, thread_environment
from podx_bench.workload.work import Answer

ADVICE = "ask for fewer users or smaller batches, or leave the engine out of --engines"


class EngineProcess(Child):
    """An engine in a process of its own. A context manager: leaving it ends the process.

    Args:
        name: the engine's.
        context: what it is made from.
        work: file with its requests.
        call_timeout: seconds after which a call is given up.
        loads: engine that the process loads, where ``name`` is one of this run alone.

    Raises:
        ConfigError: the engine's interpreter is missing.
        PodxError: the engine cannot be loaded; of the kind that its process raised.
    """

    def __init__(
        self, name: str, context: EngineContext, work: Path, call_timeout: float = CALL_TIMEOUT_S, loads: str = ""
    ) -> None:
        kind = engine_kind(loads or name)
        super().__init__(
            SERVER,
            loads or name,
            kind.prepare(context) if kind.prepare else context,
            work,
            name=f"engine {name}",
            advice=ADVICE,
            environment=thread_environment(context.threads, context.spin),
            interpreter=kind.interpreter() if kind.interpreter else None,
            timeout=call_timeout,
        )

    def time(self, batches: Sequence[Sequence[int]]) -> Timing:
        """Time one call per batch of request numbers."""
        timing: Timing = self.call("time", batches, returns=Timing)
        return timing

    def answer(self, rows: Sequence[int]) -> tuple[list[Answer], float]:
        """Answers to requests, one call for all, and the seconds it took."""
        answers: TimedAnswers = self.call("answer", list(rows), returns=TimedAnswers)
        return list(answers.answers), answers.seconds
