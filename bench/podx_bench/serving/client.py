"""Clients of a server: requests written beforehand, sent by lasting connections from one event loop.

An HTTP library would cost more than the server it measures; on two cores the clients must not be the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from array import array
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import uvloop

from podx_bench.harness.resources import MILLISECONDS

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE_S = 60.0
"""After which no answer is waited for any longer."""
OK, REFUSED = 200, 429
REFUSED_S = 0.05
"""After which a client that was refused asks again, where it asks whenever it has an answer."""
NO_ANSWER = 0
Judge = Callable[[int, int, bytes], None]
"""Told request number, status and body of every answer."""


def lasting(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds from now are not over yet."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


def run(clients: Coroutine[Any, Any, T]) -> T:
    """Run clients until they are done."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(clients)


def written(path: str, body: Any = None, key: str = "") -> bytes:
    """A request as bytes. ``body``: anything that JSON can write; None: a GET."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


class Connection:
    """One client's connection, opened when it is first needed. ``closing``: the server said that it ends."""

    def __init__(self, port: int) -> None:
        self._port, self.closing = port, False
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> asyncio.StreamReader:
        """Send a request, and return what its answer is read from."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        self._streams[1].write(request)
        return self._streams[0]

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; :data:`NO_ANSWER` where the connection ends or time is over before."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader = await self.send(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            return NO_ANSWER, repr(error).encode()
        if b"\r\nconnection: close" in head:
            self.close()
            self.closing = True
        return int(head[9:12]), body

    def close(self) -> None:
        """Leave; the next request goes by a new connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Log:
    """What came of many requests: of each its milliseconds and status.

    ``stood_still``: the clients did, so it says nothing of the server.
    """

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self._ms, self._statuses = array("d"), array("h")
        self.seconds, self.unsent, self.stood_still = 0.0, 0, False

    def add(self, start: float, status: int) -> None:
        """An answer came just now to what was sent at a time of ``time.perf_counter``."""
        now = time.perf_counter()
        self._ms.append(MILLISECONDS * (now - start))
        self._statuses.append(status)
        self.seconds = now - self.begun

    def __len__(self) -> int:
        return len(self._ms)

    def count(self, status: int) -> int:
        """Answers of a status."""
        return self._statuses.count(status)

    @property
    def errors(self) -> int:
        """Requests that were not answered with 200, or could not be sent."""
        return len(self) - self.count(OK) + self.unsent

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return self.count(OK) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float, status: int = OK) -> float:
        """Milliseconds of answers of a status; 0: there is none."""
        chosen = np.array(self._statuses) == status
        return float(np.percentile(np.array(self._ms)[chosen], percent)) if chosen.any() else 0.0


async def closed_loop(
    port: int, requests: Sequence[bytes], clients: int, going: Callable[[], bool], judge: Judge = lambda *_: None
) -> Log:
    """Clients who each ask their next question when they have an answer, while ``going`` and until the server ends."""
    log = Log()

    async def client(first: int) -> None:
        connection, number = Connection(port), first
        while going() and not connection.closing:
            start = time.perf_counter()
            status, body = await connection.ask(requests[number % len(requests)])
            log.add(start, status)
            judge(number % len(requests), status, body)
            if status == NO_ANSWER:
                break
            if status == REFUSED:
                await asyncio.sleep(REFUSED_S)
            number += clients
        connection.close()

    await asyncio.gather(*map(client, range(clients)))
    return log


async def open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int, seed: int = 0,
    most_late_s: float = math.inf,
) -> Log:  # fmt: skip
    """So many questions a second, come what may, at random times (a Poisson process).

    Milliseconds count from when a question was due. ``connections``: most that are open; with none free, a question is
    not sent. ``most_late_s``: it ends where a question is asked so long after it was due.
    """
    random, log, free = np.random.default_rng(seed), Log(), [Connection(port) for _ in range(connections)]
    due, number = log.begun, 0

    async def ask(connection: Connection, request: bytes, start: float) -> None:
        log.add(start, (await connection.ask(request))[0])
        free.append(connection)

    async with asyncio.TaskGroup() as asking:
        while (due := due + random.exponential(1 / rate)) < log.begun + seconds:
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            elif number % 8 == 0:
                await asyncio.sleep(0)
            log.stood_still = time.perf_counter() - due > most_late_s
            if log.stood_still:
                break
            number += 1
            if free:
                asking.create_task(ask(free.pop(), requests[number % len(requests)], due))
            else:
                log.unsent += 1
    for connection in free:
        connection.close()
    return log
