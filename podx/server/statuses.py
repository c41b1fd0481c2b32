"""Errors as responses: ``{"error": what is wrong and what to do, "type": the error's name}`` and a status."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from podx.errors import (
    AccessError,
    BodySizeError,
    BundleError,
    ClosedError,
    ConfigError,
    OverloadedError,
    PodxError,
    RequestError,
    RequestTimeoutError,
    UnknownItemError,
    UnknownUserError,
)
from podx.server.forms import Failure

STATUSES: dict[type[PodxError], HTTPStatus] = {
    RequestError: HTTPStatus.BAD_REQUEST,
    ConfigError: HTTPStatus.BAD_REQUEST,
    BundleError: HTTPStatus.BAD_REQUEST,  # of a reload
    AccessError: HTTPStatus.UNAUTHORIZED,
    UnknownUserError: HTTPStatus.NOT_FOUND,
    UnknownItemError: HTTPStatus.NOT_FOUND,
    BodySizeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
}
HEADERS: dict[type[PodxError], dict[str, str]] = {
    AccessError: {"WWW-Authenticate": "Bearer"},
    BodySizeError: {"Connection": "close"},  # the rest of the body is not read
    OverloadedError: {"Retry-After": "1"},
    ClosedError: {"Retry-After": "1"},
}
LEFT = Response(status_code=499)
"""What nginx logs of a client that did not wait; nobody reads it."""
JSON = "application/json"
LONGEST_MESSAGE = 2000
"""Letters. A message quotes what was asked for, which may be as long as a body."""

encode = msgspec.json.Encoder().encode


def json_response(content: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """A response of anything that msgspec writes."""
    return Response(encode(content), status, headers, JSON)


def failure(error: PodxError) -> Failure:
    """An error as clients read it."""
    return Failure(str(error)[:LONGEST_MESSAGE], type(error).__name__)


def failed(error: PodxError) -> Response:
    """The response to a request that ends in an error."""
    kinds = type(error).__mro__
    status = next((STATUSES[kind] for kind in kinds if kind in STATUSES), HTTPStatus.INTERNAL_SERVER_ERROR)
    return json_response(failure(error), status, HEADERS.get(type(error)))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    advice = {404: "see / and /openapi.json for what there is", 405: "use the method that /openapi.json names"}
    name = HTTPStatus(error.status_code).phrase.replace(" ", "")
    message = (
        f"{request.method} {request.url.path}: {error.detail}; {advice.get(error.status_code, 'see /openapi.json')}"
    )
    return json_response(Failure(message[:LONGEST_MESSAGE], name), error.status_code, dict(error.headers or {}))


async def _unforeseen(request: Request, error: Exception) -> Response:
    message = "the server failed at this request; its log says why: report it if it happens again"
    return json_response(Failure(message, "InternalError"), HTTPStatus.INTERNAL_SERVER_ERROR)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    HTTPException: _http,
    Exception: _unforeseen,
}
