"""What every request passes, whatever it asks: the key, the count, and the end of connections at the end."""

from __future__ import annotations

import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from podx.errors import AccessError
from podx.server.service import Service
from podx.server.statuses import failed

OPEN = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: probes, and the page, which asks its user for one."""
SCHEME = b"bearer "


class Gate:
    """ASGI middleware. ``keys``: those that may pass; none: everybody may."""

    def __init__(self, app: ASGIApp, service: Service, keys: tuple[bytes, ...]) -> None:
        self._app, self._service, self._keys = app, service, keys

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

        try:
            if self._may_pass(scope):
                await self._app(scope, receive, counted)
            else:
                missing = AccessError("no key, or a wrong one: send the header 'Authorization: Bearer KEY'")
                await failed(missing)(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request(route, status, time.perf_counter() - start)

    def _may_pass(self, scope: Scope) -> bool:
        if not self._keys or scope["path"].removeprefix(scope.get("root_path", "")) in OPEN:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = given[len(SCHEME) :].strip() if given[: len(SCHEME)].lower() == SCHEME else b""
        return sum(hmac.compare_digest(key, known) for known in self._keys) > 0  # all of them, so none takes longer
