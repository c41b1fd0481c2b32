"""``podx serve``: answer requests over HTTP, with limits, metrics and a page to try it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import podx
from podx.cli import BundlePath, LoadFlags, ReadingFlags, reading_arguments
from podx.errors import ConfigError
from podx.flags import with_flags
from podx.server.app import create_app
from podx.server.service import Service
from podx.server.settings import KILOBYTE, Settings
from podx.server.watch import Watch, fingerprint

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""An idle connection is kept; longer than the 60 s after which common load balancers let go of it."""
DOORS = 128
"""Handles of the one listening socket: uvloop takes one connection of each in a round of its loop, and rounds are long
under load, so that with one handle new clients would wait for seconds."""
LEAVE_S = 2.0
"""After SIGTERM clients have this long to see that they are answered with the end of their connection."""
LAST_S, LOOK_S, EMPTY_LOOKS = 1.0, 0.02, 5
ATTACH_FILTER = 26
"""Linux's ``SO_ATTACH_FILTER``."""
NO_NEWCOMERS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags of the TCP header
        (0x45, 0, 1, 0x10),  # unless ACK is set, skip what follows
        (0x06, 0, 0, 0xFFFF),  # take the packet
        (0x06, 0, 0, 0),  # drop it
    )
)
"""A socket filter that drops the first packet of a connection, and so none of a connection that has begun."""
MOST_HEAD = 64 * KILOBYTE
"""Bytes of a request before its body that are waited with."""


class LimitedHead(HttpToolsProtocol):
    """Uvicorn's protocol that ends a connection whose request's head grows too long; it would hold all of it."""

    _in_head, _head = True, 0  # bytes since what the request began with

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head = True, 0

    def on_headers_complete(self) -> None:
        """Its body comes next."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")


class Server(uvicorn.Server):
    """Uvicorn that says goodbye: not ready, each connection ends with an answer, and only then are all closed."""

    def __init__(self, app: FastAPI, service: Service | None = None) -> None:
        config = uvicorn.Config(
            app,
            http=LimitedHead,
            ws="none",
            log_level="warning",
            access_log=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
        )
        super().__init__(config)
        self._service: Service = service or app.state.service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who is there; from now on every answer closes its connection."""
        self._service.ready = False
        await self._nobody_left(LEAVE_S)
        for listening in sockets or []:
            let_nobody_in(listening)
        await self._nobody_left(LAST_S)
        await super().shutdown(sockets)

    async def _nobody_left(self, seconds: float) -> None:
        """Wait until there have been no connections for a while, so many seconds at most."""
        loop = asyncio.get_running_loop()
        end, empty = loop.time() + seconds, 0
        while empty < EMPTY_LOOKS and loop.time() < end and not self.force_exit:
            await asyncio.sleep(LOOK_S)
            empty = 0 if self.server_state.connections else empty + 1


def let_nobody_in(listening: socket.socket) -> None:
    """Who still comes waits outside, and finds the door closed instead of being cut off: all on Linux, else most."""
    program = ctypes.create_string_buffer(NO_NEWCOMERS, len(NO_NEWCOMERS))
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may know no filters
            fields = struct.pack("HP", len(NO_NEWCOMERS) // 8, ctypes.addressof(program))
            listening.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, fields)
            return
    listening.listen(1)


@with_flags(settings=Settings, reading=ReadingFlags, load=LoadFlags)
def serve(bundle: BundlePath, settings: Any = None, reading: Any = None, load: Any = None) -> None:
    """Answer requests over HTTP until SIGTERM or Ctrl-C."""
    limits = Settings(**settings)
    listening = listen(limits.host, limits.port)
    before = fingerprint(bundle)
    recommender = podx.load(bundle, **load, **reading_arguments(reading))
    app = create_app(recommender, limits)
    watch = Watch(app.state.service, bundle, before)
    if limits.watch:
        watch.start()
    address = f"[{limits.host}]" if ":" in limits.host else limits.host
    typer.echo(f"{recommender.version} of {bundle} at http://{address}:{listening.getsockname()[1]}/ (Ctrl-C ends it)")
    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises again when it is done
        signal.signal(number, lambda *_: None)
    gc.freeze()  # what is loaded stays; to look through it for garbage takes tens of milliseconds
    Server(app).run([listening, *(listening.dup() for _ in range(DOORS - 1))])
    watch.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; clients wait in it until the bundle is loaded.

    Raises:
        ConfigError: the address is not this machine's, or in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port} ({error}): choose another --host or --port") from error
