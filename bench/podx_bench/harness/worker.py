"""The process behind :class:`podx_bench.harness.child.Child`: ``python -m podx_bench.harness.worker``.

It reads one request per line from stdin and writes replies to its original stdout until stdin ends; whatever libraries
print goes to stderr. It imports only what a request names, so that the process of one engine is free of the others'
libraries. Ctrl-C is the parent's to handle.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
import threading
import typing
from collections.abc import Callable
from typing import IO, Any

import msgspec

from podx.errors import PodxError
from podx_bench.harness.child import Reply, Request, decode_value, encode_value

_lock = threading.Lock()
_replies: IO[bytes] | None = None


def tell(progress: str) -> None:
    """Report what is being done to the parent's ``tell``; outside a worker process nothing happens."""
    if _replies is not None:
        _reply(Reply(progress=progress))


def _reply(reply: Reply) -> None:
    assert _replies is not None  # set before the first request is read
    with _lock:
        _replies.write(msgspec.json.encode(reply, enc_hook=encode_value) + b"\n")
        _replies.flush()


def _call(function: Callable[..., Any], values: list[Any]) -> Any:
    """Call with arguments converted by the function's type hints."""
    where = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(where)
    names = inspect.signature(function).parameters
    arguments = [
        msgspec.convert(value, hints.get(name, Any), dec_hook=decode_value)
        for name, value in zip(names, values, strict=False)
    ]
    return function(*arguments)


def _imported(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def serve(requests: IO[bytes]) -> None:
    """Answer requests until they end."""
    kept: Any = None
    for line in requests:
        request = msgspec.json.decode(line, type=Request)
        try:
            if request.make is not None:
                kept, result = _call(_imported(request.make), request.arguments), None
            elif request.function is not None:
                result = _call(_imported(request.function), request.arguments)
            else:
                result = _call(getattr(kept, request.method or ""), request.arguments)
            reply = Reply(result=result)
        except PodxError as error:
            reply = Reply(error=type(error).__name__, message=str(error))
        _reply(reply)


def main() -> None:
    """Keep the original stdout for replies, give descriptor 1 to stderr, and serve."""
    global _replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    importlib.import_module("podx_bench.harness.worker").main()  # one module, not a second called __main__
