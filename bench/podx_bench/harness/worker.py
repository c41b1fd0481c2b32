"""The process behind :class:`podx_bench.harness.child.Child`: ``python -m podx_bench.harness.worker``.

It answers requests from stdin on its original stdout until stdin ends; whatever libraries print goes to stderr. It
imports only what a request names, so that the process of one engine is free of the others' libraries.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
import threading
import typing
from typing import IO, Any

import msgspec

from podx.errors import PodxError
from podx_bench.harness.child import Reply, Request, decode_value, encode_value

_lock = threading.Lock()
_replies: IO[bytes] | None = None


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
    importlib.import_module("podx_bench.harness.worker").main()  # one module, not a second called __main__
