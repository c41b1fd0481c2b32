"""Asks a server over HTTP, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Response:
    """What came back. ``json``: the body, where it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Client:
    """Of one server. ``service``: the server's own, where it runs in this process."""

    def __init__(self, port: int, service: Any = None) -> None:
        self.port, self.service = port, service
        self.url = f"http://127.0.0.1:{port}"
        self._open = list[socket.socket]()
        self._threads = ThreadPoolExecutor(16)

    def ask(self, path: str, body: Any = None, key: str | None = None, method: str | None = None) -> Response:
        """One request by a connection of its own. ``body``: anything that JSON can write, or bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
        response = connection.getresponse()
        read = Response(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
        connection.close()
        return read

    def later(self, path: str, body: Any) -> Any:
        """A future of what :meth:`ask` returns."""
        return self._threads.submit(self.ask, path, body)

    def send(self, path: str, body: Any, length: int | None = None) -> socket.socket:
        """A connection on which a request was sent and no answer read. ``length``: what the head says of the body."""
        data = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {length or len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        self._open.append(connection)  # dropped, it would be closed
        return connection

    def waits_for(self, rows: int) -> None:
        """Return when that many requests wait for a batch."""
        until(lambda: self.service._batcher.stats.waiting == rows)

    def metric(self, line: str) -> float:
        """The value of a metric with its labels."""
        text = self.ask("/metrics").body.decode()
        values = [value for name, _, value in (row.rpartition(" ") for row in text.splitlines()) if name == line]
        return float(values[0]) if values else 0.0


def until(true: Callable[[], bool]) -> None:
    """Return when it is so."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)
