"""Work in a process of its own: the one way in which the bench starts, asks and ends a measured process.

:class:`Child` keeps an object there and calls its methods; :func:`run_in_child` calls one function. Requests and
replies are lines of JSON over pipes, encoded and checked by msgspec against the type hints on both sides, so arguments
and results may be dataclasses, enums, paths and tuples. Between calls the process waits on its pipe and uses no
processor time.

``python -m podx_bench.harness.child`` is the process. It answers requests from stdin on its original stdout until
stdin ends; whatever libraries print goes to stderr. It imports only what a request names, so that the process of one
engine is free of the others' libraries.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import msgspec

from podx import errors
from podx.errors import PodxError
from podx_bench.harness.options import usable_cores

MODULE = "podx_bench.harness.child"
START_TIMEOUT_S, CALL_TIMEOUT_S, QUIT_TIMEOUT_S = 600.0, 1800.0, 10.0
STDERR_TAIL = 2000
"""Characters of a dead process's last words that go into the error message."""

T = TypeVar("T")
Tell = Callable[[str], None]
"""Told in a few words what is being done."""
_lock = threading.Lock()
_replies: IO[bytes] | None = None
"""Where a worker process writes its replies; None: this is no worker."""


class EngineError(PodxError):
    """A measured process failed, or answered something that makes no sense."""


class ChildDiedError(EngineError):
    """A measured process ended before it replied. ``status``: its exit status; -9: killed, often for want of memory."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Request(msgspec.Struct):
    """A call of ``module:function``, or of a method of the kept object; with ``keep`` the call makes that object."""

    target: str
    arguments: list[Any]
    keep: bool = False


class Reply(msgspec.Struct):
    """The result; or a line of progress, the result still to come; or name and text of an error a user can mend."""

    result: Any = None
    progress: str | None = None
    error: tuple[str, str] | None = None


def thread_environment(threads: int, spin: bool = False) -> dict[str, str]:
    """Environment of a measured process: as many threads, 0: one per core, for each library; may waiting ones spin?"""
    count = str(threads or usable_cores())
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    waiting = {} if spin else {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return {**os.environ, **counts, **waiting, "TOKENIZERS_PARALLELISM": "false"}


class Child:
    """An object in a process of its own. A context manager: leaving it ends the process.

    Args:
        target: ``module:class`` (or any callable) that makes the object; None: only functions are called.
        arguments: given to ``target``; encoded here, decoded there by its type hints.
        name: of the process in messages, as ``engine podx``.
        advice: what a user may do where it dies or takes too long, as ``leave the engine out of --engines``.
        environment: of the process, see :func:`thread_environment`; None: as here.
        interpreter: Python that runs it, with podx_bench on its path and msgspec; None: this one.
        tell: told what the object reports with :func:`tell`.
        timeout: seconds after which a call is given up; loading has :data:`START_TIMEOUT_S`.

    Attributes:
        load_s: seconds from the start of the process until the object was made, imports included.

    Raises:
        PodxError: the object cannot be made; of the kind that was raised there.
        ChildDiedError: the process ended.
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
        command = [str(interpreter or sys.executable), "-m", MODULE]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._stderr, env=environment)
        if target is not None:
            try:
                self._ask(target, arguments, "loading", START_TIMEOUT_S, keep=True)
            except BaseException:
                self.close()
                raise
        self.load_s = time.perf_counter() - start

    def call(self, target: str, *arguments: Any, returns: type[T] | Any) -> T:
        """Call a method of the object there, or a function named ``module:function``.

        Args:
            returns: type of the result, checked here; ``None``: there is no result.

        Raises:
            PodxError: as raised there. EngineError: it took too long. ChildDiedError: the process ended.
        """
        result = self._ask(target, arguments, target, self._timeout)
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
        with contextlib.suppress(OSError):  # what a dead process left unread
            self._process.stdin.close()  # type: ignore[union-attr] # a pipe, as stdout is
        try:
            self._process.wait(QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, target: str, arguments: tuple[Any, ...], what: str, timeout: float, keep: bool = False) -> Any:
        """Send a request and wait for its result, JSON values."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # opened as pipes
        try:
            stdin.write(msgspec.json.encode(Request(target, list(arguments), keep), enc_hook=encode_value) + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: the pipe is closed
            raise self._obituary() from error
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout, stop)
        timer.start()
        self._busy = True
        try:
            for line in stdout:
                reply = msgspec.json.decode(line, type=Reply)
                if reply.progress is not None:
                    self._tell(reply.progress)
                    continue
                self._busy = False
                if reply.error is not None:
                    kind, message = reply.error
                    raise getattr(errors, kind, EngineError)(f"{self._name}: {message}")
                return reply.result
        finally:
            timer.cancel()
        if late.is_set():
            limit = f"did not finish its {what} within {timeout:.0f} s and was stopped"
            raise EngineError(f"{self._name} {limit}: {self._advice}")
        raise self._obituary()

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


def tell(progress: str) -> None:
    """Report what is being done to the parent's ``tell``; outside a worker process nothing happens."""
    _reply(Reply(progress=progress))


def _reply(reply: Reply) -> None:
    if _replies is not None:
        with _lock:
            _replies.write(msgspec.json.encode(reply, enc_hook=encode_value) + b"\n")
            _replies.flush()


def _call(request: Request, kept: Any) -> Any:
    """Call what a request names, its arguments converted by the type hints there."""
    module, colon, name = request.target.rpartition(":")
    function = getattr(importlib.import_module(module) if colon else kept, name)
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    return function(
        *(
            msgspec.convert(value, hints.get(parameter, Any), dec_hook=decode_value)
            for parameter, value in zip(inspect.signature(function).parameters, request.arguments, strict=False)
        )
    )


def main() -> None:
    """Keep the original stdout for replies, give descriptor 1 to stderr, and answer requests until they end."""
    global _replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    kept: Any = None
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        try:
            result = _call(request, kept)
        except PodxError as error:
            _reply(Reply(error=(type(error).__name__, str(error))))
            continue
        if request.keep:
            kept, result = result, None
        _reply(Reply(result))


if __name__ == "__main__":
    importlib.import_module(MODULE).main()  # one module, not a second called __main__
