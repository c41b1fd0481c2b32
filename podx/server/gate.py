"""What every request passes, whatever it asks: the key, the count, and the end of connections at the end."""

from __future__ import annotations

import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from podx.errors import AccessError, OverloadedError
from podx.server.service import Service
from podx.server.statuses import failed

OPEN = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: probes, and the page, which asks its user for one."""
QUEUED = frozenset({"/v1/recommend", "/v1/rank", "/v2/models/podx/infer"})
"""Paths whose requests wait for a batch."""
SCHEME = b"bearer "


class Gate:
    """ASGI middleware. ``keys``: those that may pass; none: everybody may."""

    def __init__(self, app: ASGIApp, service: Service, keys: tuple[bytes, ...]) -> None:
        self._app, self._service, self._keys = app, service, keys
        self._no_key = failed(AccessError("no key, or a wrong one: send the header 'Authorization: Bearer KEY'"))
        self._full = failed(OverloadedError("too many requests wait to answer one more in time: come back later"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not self._service.ready:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        queued = path in QUEUED
        try:
            if self._keys and path not in OPEN and not self._has_key(scope):
                await self._no_key(scope, receive, counted)
            elif queued and self._service.full:
                await self._full(scope, receive, counted)  # before the body is read: to refuse must cost little
            else:
                await self._app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", path if queued else "other")
            self._service.metrics.request(route, status, time.perf_counter() - start)

    def _has_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = given[len(SCHEME) :].strip() if given[: len(SCHEME)].lower() == SCHEME else b""
        return sum(hmac.compare_digest(key, known) for known in self._keys) > 0  # all of them, so none takes longer
