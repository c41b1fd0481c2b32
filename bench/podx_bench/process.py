"""The parent's handle on an engine's process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from podx import errors
from podx.errors import PodxError
from podx_bench.engines import EngineContext, EngineError, EngineKind, engine_kind
from podx_bench.work import Answer

START_TIMEOUT_S = 600.0
CALL_TIMEOUT_S = 1800.0
QUIT_TIMEOUT_S = 10.0
STDERR_TAIL = 2000
"""Characters of a dead process's last words that go into the error message."""

Batches = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Timing:
    """Of one turn. ``ms``: per call; ``peak_rss_mb``: of the process so far."""

    ms: tuple[float, ...]
    peak_rss_mb: float


def thread_environment(threads: int, spin: bool) -> dict[str, str]:
    """Environment of an engine's process: the same number of threads for whichever library it uses."""
    count = str(threads)
    environment = dict(os.environ)
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if not spin:
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return environment


def worker_command(kind: EngineKind) -> list[str]:
    """What starts the process of an engine.

    Raises:
        ConfigError: its interpreter is missing.
    """
    return [sys.executable if kind.interpreter is None else str(kind.interpreter()), "-m", "podx_bench.worker"]


class EngineProcess:
    """An engine in a process of its own. A context manager: leaving it ends the process.

    Args:
        name: the engine's.
        context: what it is made from.
        work: file with its requests.
        scratch: folder for what the process says on stderr.
        call_timeout: seconds after which a call is given up.
        loads: engine that the process loads, where ``name`` is one of this run alone.

    Attributes:
        load_s: seconds from the start of the process to its first answer, imports included.

    Raises:
        PodxError: the engine cannot be loaded; of the kind that its process raised.
    """

    def __init__(
        self,
        name: str,
        context: EngineContext,
        work: Path,
        scratch: Path,
        call_timeout: float = CALL_TIMEOUT_S,
        loads: str | None = None,
    ) -> None:
        self.name = name
        kind = engine_kind(loads or name)
        context = kind.prepare(context) if kind.prepare else context
        asked = {"do": "load", "engine": loads or name, "context": context.as_json(), "work": str(work)}
        self._timeout = call_timeout
        self._errors = scratch / f"{context.task}-{len(list(scratch.iterdir()))}.stderr"
        start = time.perf_counter()
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                worker_command(kind),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=thread_environment(context.threads, context.spin),
                text=True,
                encoding="utf-8",
            )
        self._replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        try:
            self._ask(asked, START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self.load_s = time.perf_counter() - start

    def time(self, batches: Batches) -> Timing:
        """Time one call per batch of request numbers."""
        reply = self._ask({"do": "time", "batches": [list(rows) for rows in batches]}, self._timeout)
        return Timing(tuple(reply["ms"]), reply["peak_rss_mb"])

    def answer(self, rows: Sequence[int]) -> tuple[list[Answer], float]:
        """Answers to requests, one call for all, and the seconds it took."""
        reply = self._ask({"do": "answer", "rows": list(rows)}, self._timeout)
        return [Answer.from_json(content) for content in reply["answers"]], reply["seconds"]

    def close(self) -> None:
        """End the process, by force if it does not listen."""
        try:
            self._send({"do": "quit"})
            self._process.wait(QUIT_TIMEOUT_S if self._process.poll() is None else 0)
        except (OSError, subprocess.TimeoutExpired, EngineError):
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):  # what a dead process left unread
                    self._process.stdin.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._replies.put(line)
        stream.close()
        self._replies.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # opened as a pipe
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EngineError(self._obituary()) from error

    def _ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        self._send(message)
        try:
            line = self._replies.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise EngineError(
                f"engine {self.name} did not finish its {message['do']} within {timeout:.0f} s and was stopped: "
                f"ask for fewer users or smaller batches, or leave it out of --engines"
            ) from None
        if line is None:
            raise EngineError(self._obituary())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise _error(reply["error"], f"engine {self.name}: {reply['message']}")
        return reply

    def _obituary(self) -> str:
        status = self._process.wait()
        tail = self._errors.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL:].strip()
        return (
            f"the process of engine {self.name} died with status {status} (-9: killed, often for want of memory); "
            f"leave the engine out of --engines, or mend what it said last:\n{tail or '(nothing)'}"
        )


def _error(name: str, message: str) -> PodxError:
    """The error that the process raised, as one of the same kind."""
    kind = getattr(errors, name, EngineError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, PodxError) else EngineError(message)
