"""The OpenAPI document: FastAPI's of the routes, msgspec's of the bodies."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from podx.server.forms import Explain, Failure, Items, Many, Rank, Recommend, Reload, Sentence
from podx.server.settings import Settings
from podx.server.statuses import JSON

REFERENCE = "#/components/schemas/{name}"
ASKED = (400, 404, 413, 429, 503, 504)
"""Statuses of a refused request for an answer, beside 401."""

Schema = dict[str, Any]
ANYTHING: Schema = {"type": "object"}


def reference(kind: type) -> Schema:
    """The schema of a struct, by its name."""
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return schema


def body(schema: Schema) -> Schema:
    """Arguments of a FastAPI route: what it reads."""
    return {"openapi_extra": {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}}


def responses(schema: Schema, *refusals: int) -> Schema:
    """Arguments of a FastAPI route: what it responds with."""
    described = {200: ("The answer", schema), **{s: (HTTPStatus(s).phrase, reference(Failure)) for s in refusals}}
    content = {
        status: {"description": text, "content": {JSON: {"schema": s}}} for status, (text, s) in described.items()
    }
    return {"response_model": None, "responses": content}


def asks(row: type, answer: type) -> Schema:
    """Arguments of a route that takes one request or many."""
    rows = {"type": "array", "items": {"anyOf": [reference(answer), reference(Failure)]}}
    many = {"type": "object", "properties": {"answers": rows}, "required": ["answers"]}
    read = body({"anyOf": [reference(row), reference(Many[row])]})  # type: ignore[valid-type]
    return {**read, **responses({"anyOf": [reference(answer), many]}, 401, *ASKED)}


def document(app: FastAPI, settings: Settings, kinds: tuple[type, ...] = ()) -> Schema:
    """The whole document. ``kinds``: structs that are named beside those of version 1."""
    listed = (*(Many[row] for row in (Recommend, Rank, Explain)), Items, Sentence, Failure, Reload, *kinds)  # type: ignore[valid-type]
    _, schemas = msgspec.json.schema_components(listed, ref_template=REFERENCE)
    for name, schema in schemas.items():
        if name.startswith("Many"):
            schema["properties"]["requests"]["maxItems"] = settings.max_pending
        if "k" in schema.get("properties", {}):
            schema["properties"]["k"]["maximum"] = settings.max_k
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    whole["components"] = {"schemas": schemas}
    if settings.api_key_file is not None:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    return whole
