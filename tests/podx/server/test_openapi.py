"""The OpenAPI document is true: what it promises of requests and responses holds for made-up ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.podx.bundles import ITEM_IDS, USER_IDS
from tests.podx.server.client import Client
from tests.podx.server.conftest import Start

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is of the dev extra")


def test_every_route_is_described(client: Client) -> None:
    document = client.ask("/openapi.json").json
    paths = {(method, path) for path, of_path in document["paths"].items() for method in of_path}
    asked = {("post", path) for path in ("/v1/recommend", "/v1/rank", "/v1/explain", "/v2/models/podx/infer")}
    assert asked <= paths and ("get", "/v1/bundle") in paths and len(paths) == 12
    schemas = document["components"]["schemas"]
    assert schemas["Recommend"]["properties"]["k"]["maximum"] == 100
    assert schemas["Many_Recommend_"]["properties"]["requests"]["maxItems"] == 256


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.mark.parametrize(
    ("kind", "expected"), [("made-up ids", {200, 400, 404}), ("known ids", {200, 400, 404}), ("wrong", {400})]
)
def test_made_up_requests_meet_nothing_unforeseen(start: Start, kind: str, expected: set[int]) -> None:
    """No 500; statuses, content types and bodies are as described; what is not of the schema is refused."""
    client = start(
        max_k=20, max_pending=8, timeout_ms=60_000, load={"unknown_user": "nearest", "long_history": "keep-last"}
    )
    document = client.ask("/openapi.json").json
    if kind == "known ids":
        for form in ("Recommend", "Rank", "Explain"):
            for name, of in document["components"]["schemas"][form]["properties"].items():
                restrict(name, of)
    mode = schemathesis.GenerationMode.NEGATIVE if kind == "wrong" else schemathesis.GenerationMode.POSITIVE
    assert asked(document, client, mode) == expected


def asked(document: dict[str, Any], client: Client, mode: Any) -> set[int]:
    """Statuses of made-up requests of all operations, whose responses are checked."""
    schemathesis.checks.load_all_checks()
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    statuses = set[int]()

    def ask(case: Any) -> None:
        response = case.call(base_url=client.url)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    few = settings(max_examples=15, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        if mode == schemathesis.GenerationMode.POSITIVE or operation.method == "post":  # the others take nothing
            few(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    return statuses


def restrict(name: str, schema: dict[str, Any]) -> None:
    """Ids that the bundle knows, so that what is asked is answered."""
    ids = {"user": USER_IDS, "item": ITEM_IDS}.get(name)
    if ids:
        schema["enum"] = ids
    elif name in ("history", "exclude", "allow", "candidates"):
        for each in (schema, *schema.get("anyOf", ())):
            if each.get("type") == "array":
                each["items"]["enum"] = ITEM_IDS
