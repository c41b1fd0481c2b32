"""Work in a process of its own: the one way in which the bench starts, asks and ends a measured process.

:class:`Child` holds an object that lives in the process and calls its methods; :func:`run_in_child` calls one function.
Requests and replies are lines of JSON over pipes, encoded and checked by msgspec against the type hints on both sides,
so arguments and results may be dataclasses, enums, paths and tuples. Between calls the process waits on its pipe and
uses no processor time. What it prints goes to its stderr, whose end stands in the message where it dies.

The other side is :mod:`podx_bench.harness.worker`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import msgspec

from podx import errors
from podx.errors import PodxError

WORKER = "podx_bench.harness.worker"
START_TIMEOUT_S = 600.0
CALL_TIMEOUT_S = 1800.0
QUIT_TIMEOUT_S = 10.0
STDERR_TAIL = 2000
"""Characters of a dead process's last words that go into the error message."""

T = TypeVar("T")
Tell = Callable[[str], None]
"""Told in a few words what is being done."""


class EngineError(PodxError):
    """A measured process failed, or answered something that makes no sense."""


class ChildDiedError(EngineError):
    """A measured process ended before it replied. ``status``: its exit status; -9: killed, often for want of memory."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Request(msgspec.Struct):
    """What the parent asks: to make the object (``make``), to call a function, or to call a method of the object.

    Attributes:
        make: ``module:class`` of the object to be kept. function: ``module:function``. method: of the kept object.
        arguments: of the call, as JSON values.
    """

    make: str | None = None
    function: str | None = None
    method: str | None = None
    arguments: list[Any] = []


class Reply(msgspec.Struct):
    """What the process says: a line of progress, an error that the user can mend, or the result.

    Attributes:
        progress: what is being done; the result is still to come.
        error: name of the error's class; message: its text.
        result: what the call returned, as JSON values.
    """

    progress: str | None = None
    error: str | None = None
    message: str = ""
    result: Any = None


def thread_environment(threads: int, spin: bool = False) -> dict[str, str]:
    """Environment of a measured process: the same number of threads for whichever library it uses.

    Args:
        spin: whether threads that wait may spin.
    """
    count = str(threads)
    environment = dict(os.environ)
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if not spin:
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return environment


class Child:
    """An object in a process of its own. A context manager: leaving it ends the process.

    Args:
        target: ``module:class`` (or any callable) that makes the object there; its PodxErrors are raised here. None:
            there is no object, only functions are called, see :func:`run_in_child`.
        arguments: given to ``target``; encoded here, decoded there by its type hints.
        name: of the process in messages, as ``engine podx``.
        advice: what a user may do where it dies or takes too long, as ``leave the engine out of --engines``.
        environment: of the process, see :func:`thread_environment`; None: as here.
        interpreter: Python that runs it; None: this one. It needs podx_bench on its path and msgspec, no more.
        tell: told what the object reports with :func:`podx_bench.harness.worker.tell`.
        timeout: seconds after which a call is given up; loading has :data:`START_TIMEOUT_S`.

    Attributes:
        load_s: seconds from the start of the process until the object was made, imports included.

    Raises:
        PodxError: the object cannot be made; of the kind that was raised there.
        ChildDiedError: the process ended.

    Example::

        with Child("podx_bench.serving.server:ServingServer", options, name="the served process", advice="…") as child:
            record = child.call("measure", 8, returns=ServingRecord)
    """

    def __init__(
        self,
        target: str | None,
        *arguments: Any,
        name: str,
        advice: str,
        environment: Mapping[str, str] | None = None,
        interpreter: Path | None = None,
        tell: Tell = lambda _: None,
        timeout: float = CALL_TIMEOUT_S,
    ) -> None:
        self._name, self._advice, self._tell, self._timeout = name, advice, tell, timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._busy = False
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable if interpreter is None else str(interpreter), "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=None if environment is None else dict(environment),
        )
        self._replies: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        if target is not None:
            try:
                self._ask(Request(make=target, arguments=_plain(arguments)), "loading", START_TIMEOUT_S)
            except BaseException:
                self.close()
                raise
        self.load_s = time.perf_counter() - start

    def call(self, method: str, *arguments: Any, returns: type[T] | Any) -> T:
        """Call a method of the object there, or a function named ``module:function``.

        Args:
            returns: type of the result, checked here; ``None``: there is no result.

        Raises:
            PodxError: as raised there. EngineError: it took too long. ChildDiedError: the process ended.
        """
        named = {"function" if ":" in method else "method": method}
        result = self._ask(Request(**named, arguments=_plain(arguments)), method, self._timeout)
        value: T = msgspec.convert(result, returns, dec_hook=decode_value)
        return value

    @property
    def status(self) -> int | None:
        """Exit status of the process; None: it still runs."""
        return self._process.poll()

    def close(self) -> None:
        """End the process: it quits when its pipe closes; one that is busy or does not listen is killed."""
        if self._busy:
            self._process.kill()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what a dead process left unread
                self._process.stdin.close()
        try:
            self._process.wait(QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._replies.put(line)
        stream.close()
        self._replies.put(None)

    def _ask(self, request: Request, what: str, timeout: float) -> Any:
        """Send a request and wait for its result, JSON values."""
        assert self._process.stdin is not None  # opened as a pipe
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: the pipe is closed
            raise self._obituary() from error
        end = time.monotonic() + timeout
        self._busy = True
        while True:
            try:
                line = self._replies.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._process.kill()
                raise EngineError(
                    f"{self._name} did not finish its {what} within {timeout:.0f} s and was stopped: {self._advice}"
                ) from None
            if line is None:
                raise self._obituary()
            reply = msgspec.json.decode(line, type=Reply)
            if reply.progress is not None:
                self._tell(reply.progress)
                continue
            self._busy = False
            if reply.error is not None:
                raise _same_error(reply.error, f"{self._name}: {reply.message}")
            return reply.result

    def _obituary(self) -> ChildDiedError:
        status = self._process.wait()
        tail = ""
        if not self._stderr.closed:
            self._stderr.seek(0)
            tail = self._stderr.read().decode("utf-8", errors="replace")[-STDERR_TAIL:].strip()
        return ChildDiedError(
            f"the process of {self._name} died with status {status} (-9: killed, often for want of memory); "
            f"{self._advice}, or mend what it said last:\n{tail or '(nothing)'}",
            status,
        )


def run_in_child(target: str, *arguments: Any, returns: type[T] | Any, **options: Any) -> T:
    """Call ``module:function`` in a fresh process and end it; options and errors as of :class:`Child`."""
    with Child(None, **options) as child:
        value: T = child.call(target, *arguments, returns=returns)
        return value


def _plain(arguments: tuple[Any, ...]) -> list[Any]:
    return [msgspec.to_builtins(argument, enc_hook=encode_value) for argument in arguments]


def encode_value(value: Any) -> Any:
    """What msgspec does not know of itself: paths as text, numpy's numbers as Python's."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"cannot send a {type(value).__name__}")


def decode_value(kind: type, value: Any) -> Any:
    """The other way round, by the type that is wanted."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"cannot receive a {kind.__name__}")


def _same_error(name: str, message: str) -> PodxError:
    """The error that the process raised, as one of the same kind."""
    kind = getattr(errors, name, EngineError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, PodxError) else EngineError(message)
