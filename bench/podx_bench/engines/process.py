"""The parent's handle on an engine's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from podx_bench.engines import EngineContext, engine_kind
from podx_bench.engines.server import SERVER, TimedAnswers, Timing
from podx_bench.harness.child import CALL_TIMEOUT_S, Child, thread_environment
from podx_bench.workload.work import Answer

ADVICE = "ask for fewer users or smaller batches, or leave the engine out of --engines"


class EngineProcess:
    """An engine in a process of its own. A context manager: leaving it ends the process.

    Args:
        name: the engine's.
        context: what it is made from.
        work: file with its requests.
        call_timeout: seconds after which a call is given up.
        loads: engine that the process loads, where ``name`` is one of this run alone.

    Attributes:
        load_s: seconds from the start of the process to its first answer, imports included.

    Raises:
        ConfigError: the engine's interpreter is missing.
        PodxError: the engine cannot be loaded; of the kind that its process raised.
    """

    def __init__(
        self,
        name: str,
        context: EngineContext,
        work: Path,
        call_timeout: float = CALL_TIMEOUT_S,
        loads: str | None = None,
    ) -> None:
        kind = engine_kind(loads or name)
        context = kind.prepare(context) if kind.prepare else context
        self.name = name
        self._child = Child(
            SERVER,
            loads or name,
            context,
            work,
            name=f"engine {name}",
            advice=ADVICE,
            environment=thread_environment(context.threads, context.spin),
            interpreter=kind.interpreter() if kind.interpreter else None,
            timeout=call_timeout,
        )
        self.load_s = self._child.load_s

    def time(self, batches: Sequence[Sequence[int]]) -> Timing:
        """Time one call per batch of request numbers."""
        timing: Timing = self._child.call("time", batches, returns=Timing)
        return timing

    def answer(self, rows: Sequence[int]) -> tuple[list[Answer], float]:
        """Answers to requests, one call for all, and the seconds it took."""
        answers: TimedAnswers = self._child.call("answer", list(rows), returns=TimedAnswers)
        return list(answers.answers), answers.seconds

    @property
    def status(self) -> int | None:
        """Exit status of the process; None: it still runs."""
        return self._child.status

    def close(self) -> None:
        """End the process, by force if it does not listen."""
        self._child.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
