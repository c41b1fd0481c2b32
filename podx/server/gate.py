"""What every request passes, whatever it asks: the key, the count, and the end of connections at the end."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from podx.errors import AccessError, OverloadedError, PodxError
from podx.server.service import Service
from podx.server.statuses import LEFT, failed

OPEN = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: probes, and the page, which asks its user for one."""
QUEUED = frozenset({"/v1/recommend", "/v1/rank", "/v2/models/podx/infer"})
"""Paths whose requests wait for a batch."""
SCHEME = b"bearer "
CLOSE = (b"connection", b"close")
Endpoints = Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]]


class Gate:
    """ASGI middleware that answers at the known paths itself: FastAPI's way to a function takes longer than podx's.

    Args:
        app: responds to all else, with errors.
        keys: those that may pass; none: everybody may.
        endpoints: functions by method and path.
    """

    def __init__(self, app: ASGIApp, service: Service, keys: tuple[bytes, ...], endpoints: Endpoints) -> None:
        self._app, self._service, self._keys, self._endpoints = app, service, keys, endpoints
        self._no_key = failed(AccessError("no key, or a wrong one: send the header 'Authorization: Bearer KEY'"))
        self._full = failed(OverloadedError("too many requests wait to answer one more in time: come back later"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, refuse it, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, route = time.perf_counter(), 500, "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not self._service.ready:
                    message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        endpoint = self._endpoints.get((scope["method"], path))
        if endpoint is not None:
            route = path
        try:
            if self._keys and path not in OPEN and not self._has_key(scope):
                response = self._no_key
            elif endpoint is None:
                await self._app(scope, receive, counted)
                route = getattr(scope.get("route"), "path", route)
                return
            elif path in QUEUED and self._service.full:
                response = self._full  # before the body is read: to refuse must cost little
            else:
                response = await _response(endpoint, Request(scope, receive))
            headers = response.raw_headers if self._service.ready else [*response.raw_headers, CLOSE]
            status = response.status_code
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})
        finally:
            self._service.metrics.request(route, status, time.perf_counter() - start)

    def _has_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = given[len(SCHEME) :].strip() if given[: len(SCHEME)].lower() == SCHEME else b""
        return True in [hmac.compare_digest(key, known) for known in self._keys]  # all, so that none takes longer


async def _response(endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await endpoint(request)
    except PodxError as error:
        return failed(error)
    except ClientDisconnect:
        return LEFT
