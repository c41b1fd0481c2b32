"""Version 1 and the protocol's routes: answers are the library's, errors have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import podx
from podx.recommender import Recommender
from podx.server import create_app
from tests.podx.bundles import ITEM_IDS, USER_IDS
from tests.podx.server.client import Client
from tests.podx.server.conftest import Start, running

KNOWN = USER_IDS[1]


def items(answers: Any) -> list[tuple[str, float]]:
    return [(answer.item, answer.score) for answer in answers]


def sent(answer: Any) -> list[tuple[str, float]]:
    return [(item["item"], item["score"]) for item in answer["items"]]


def test_an_answer_is_that_of_the_library(client: Client, rec: Recommender) -> None:
    limits = {"exclude": ITEM_IDS[:9], "allow": ITEM_IDS[:40]}
    response = client.ask("/v1/recommend", {"user": KNOWN, "history": ITEM_IDS[30:33], "k": 4, **limits})
    expected = rec.recommend(KNOWN, ITEM_IDS[30:33], 4, **limits)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert sent(response.json) == items(expected) and len(expected) == 4
    assert response.json["user"] == "known" and response.json["exact"] is expected.exact
    assert response.json["bundle"] == rec.version == client.ask("/v1/bundle").json["bundle"]
    seen = client.ask("/v1/recommend", {"user": KNOWN, "exclude_seen": False, "k": 60}).json
    assert sent(seen) == items(rec.recommend(KNOWN, k=60, exclude_seen=False))


def test_rank_and_explain_are_those_of_the_library(client: Client, rec: Recommender) -> None:
    ranked = client.ask("/v1/rank", {"user": KNOWN, "candidates": ITEM_IDS[:5], "exclude": ITEM_IDS[:1], "k": 2})
    assert sent(ranked.json) == items(rec.rank(KNOWN, ITEM_IDS[:5], 2, ITEM_IDS[:1]))
    explained = client.ask("/v1/explain", {"user": KNOWN, "item": ITEM_IDS[2]}).json
    expected = rec.explain(KNOWN, ITEM_IDS[2])
    assert explained == {"text": expected.text, "score": expected.score, "bundle": rec.version}


def test_each_of_many_requests_has_its_answer_or_its_error(client: Client, rec: Recommender) -> None:
    asked: list[dict[str, object]] = [{"user": KNOWN, "k": 2}, {"user": "nobody"}, {"user": USER_IDS[2], "k": 3}]
    response = client.ask("/v1/recommend", {"requests": asked})
    first, unknown, last = response.json["answers"]
    assert response.status == 200
    assert sent(first) == items(rec.recommend(KNOWN, k=2)) and sent(last) == items(rec.recommend(USER_IDS[2], k=3))
    assert unknown["type"] == "UnknownUserError"
    greedy = client.ask("/v1/recommend", {"requests": [*asked, {"user": KNOWN, "k": 101}]})  # against the form
    assert (greedy.status, greedy.json["type"]) == (400, "ConfigError")
    explained = client.ask("/v1/explain", {"requests": [{"user": KNOWN, "item": "?"}, {"user": KNOWN, "item": "B001"}]})
    assert [answer.get("type") for answer in explained.json["answers"]] == ["UnknownItemError", None]
    all_wrong = client.ask("/v1/rank", {"requests": [{"user": "nobody", "candidates": ["B001"]}]})
    assert (all_wrong.status, all_wrong.json["answers"][0]["type"]) == (200, "UnknownUserError")


@pytest.mark.parametrize(
    ("path", "body", "status", "name", "says"),
    [
        ("/v1/recommend", b"", 400, "RequestError", "truncated"),
        ("/v1/recommend", b"{", 400, "RequestError", "truncated"),
        ("/v1/recommend", b'{"user": "\xff"}', 400, "RequestError", "codec can't decode"),
        ("/v1/recommend", b"[" * 100_000, 400, "RequestError", "Expected `object`"),
        ("/v1/recommend", b'{"user":' + b"[" * 100_000, 400, "RequestError", "recursion depth"),
        ("/v1/recommend", b'{"requests":' + b"[" * 100_000, 400, "RequestError", "body cannot be read"),
        ("/v1/recommend", {"user": 7}, 400, "RequestError", "$.user"),
        ("/v1/recommend", {"user": KNOWN, "of": 1}, 400, "RequestError", "unknown field `of`"),
        ("/v1/recommend", {"user": KNOWN, "k": 0}, 400, "RequestError", "$.k"),
        ("/v1/recommend", {"user": KNOWN, "k": 10**30}, 400, "ConfigError", "at most 100 items"),
        ("/v1/recommend", {"user": "nobody" * 9_000}, 404, "UnknownUserError", "'nobody"),
        ("/v1/recommend", {"user": KNOWN, "exclude": ["?"]}, 404, "UnknownItemError", "'?' among them"),
        ("/v1/recommend", {"user": KNOWN, "history": []}, 400, "HistoryError", "pass at least one item"),
        ("/v1/recommend", {"user": KNOWN, "history": ITEM_IDS[:6]}, 400, "HistoryError", "the model reads 5"),
        ("/v1/recommend", {"requests": []}, 400, "RequestError", "length >= 1"),
        ("/v1/recommend", {"requests": [{"user": 1}]}, 400, "RequestError", "$.requests[0].user"),
        ("/v1/recommend", {"requests": [{"user": KNOWN}] * 257}, 400, "RequestError", "257 requests"),
        ("/v1/rank", {"user": KNOWN}, 400, "RequestError", "required field `candidates`"),
        ("/v1/rank", {"user": KNOWN, "candidates": []}, 400, "CandidatesError", "empty"),
        ("/v1/explain", {"user": KNOWN, "item": "?"}, 404, "UnknownItemError", "not in the catalog"),
        ("/nowhere", {}, 404, "NotFound", "/openapi.json"),
        ("/admin/reload", {}, 404, "NotFound", "Not Found"),
        ("/health/live", {}, 405, "MethodNotAllowed", "POST /health/live"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_name_and_advice(
    client: Client, path: str, body: Any, status: int, name: str, says: str
) -> None:
    response = client.ask(path, body)
    assert (response.status, response.json["type"]) == (status, name)
    assert says in response.json["error"] and len(response.body) < 3_000
    assert response.headers["content-type"] == "application/json"


def test_a_failure_of_the_server_shows_no_traceback(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(client.service, "submit", fail)
    response = client.ask("/v1/recommend", {"user": KNOWN})
    assert (response.status, response.json["type"]) == (500, "InternalError")
    assert b"secret" not in response.body and b"Traceback" not in response.body
    assert client.metric('podx_requests_total{route="/v1/recommend",status="500"}') == 1


def test_cold_start_users_are_read_by_their_history(start: Start) -> None:
    client = start(load={"unknown_user": "nearest"})
    assert client.ask("/v1/recommend", {"history": ITEM_IDS[:3]}).json["user"] in ("nearest", "mean")
    counts = (client.metric(f'podx_answers_total{{exact="unknown",user="{user}"}}') for user in ("nearest", "mean"))
    assert sum(counts) == 1


def test_the_protocol_says_what_there_is(client: Client, rec: Recommender) -> None:
    model = client.ask("/v2/models/podx").json
    assert (model["name"], model["versions"]) == ("podx", [rec.version])
    assert [tensor["name"] for tensor in model["inputs"]] == ["user", "history", "exclude", "allow"]
    assert [tensor["name"] for tensor in model["outputs"]] == ["item", "score", "exact", "bundle"]
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/podx/ready"):
        assert client.ask(path).status == 200


def tensor(name: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": "BYTES", "data": data}


def test_the_protocol_answers_like_version_1(client: Client, rec: Recommender) -> None:
    inputs = [
        tensor("user", [2, 1], [[KNOWN], [USER_IDS[2]]]),
        tensor("history", [2, 2], [*ITEM_IDS[10:12], "", ""]),
        tensor("allow", [2, 3], [["", "", ""], ITEM_IDS[20:23]]),
    ]
    answer = client.ask("/v2/models/podx/infer", {"id": "a", "inputs": inputs, "parameters": {"k": 4}}).json
    got = {output["name"]: output for output in answer["outputs"]}
    first = rec.recommend(KNOWN, ITEM_IDS[10:12], 4)
    second = rec.recommend(USER_IDS[2], k=4, allow=ITEM_IDS[20:23])
    assert len(second) == 3, "one place is left to be filled up"
    assert got["item"]["data"] == [*(item.item for item in [*first, *second]), ""]
    assert got["score"]["data"] == [*(item.score for item in [*first, *second]), 0]
    assert got["item"]["shape"] == [2, 4] and got["exact"]["shape"] == [2]
    assert got["exact"]["data"] == [first.exact is True, second.exact is True]
    assert got["bundle"]["data"] == [rec.version] * 2
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a", "podx", rec.version)
    many = client.ask("/v2/models/podx/infer", {"inputs": [], "parameters": {"k": 101}})  # of no rows, too
    assert (many.status, many.json["type"]) == (400, "ConfigError")
    some = client.ask("/v2/models/podx/infer", {"inputs": inputs, "outputs": [{"name": "exact"}]}).json
    assert [output["name"] for output in some["outputs"]] == ["exact"]


@pytest.mark.parametrize(
    ("inputs", "status", "says"),
    [
        ([tensor("user", [2], [KNOWN])], 400, "has 1 texts"),
        ([tensor("user", [1], [[[KNOWN]]])], 400, "$.inputs[0].data[0][0]"),
        ([tensor("user", [1, 2], [[KNOWN, KNOWN]])], 400, "several texts in a row"),
        ([tensor("user", [1], [KNOWN])] * 2, 400, "each input once"),
        ([tensor("exclude", [1, 1], [["B001"]])], 400, "'user' among them"),
        ([tensor("user", [1], [KNOWN]), tensor("allow", [2, 1], ["B001", "B002"])], 400, "same number of rows"),
        ([tensor("age", [1], ["7"])], 400, "$.inputs[0].name"),
        ([tensor("user", [1], [KNOWN]), tensor("allow", [10**12, 0], [])], 400, "leave it out"),
        ([tensor("user", [1], ["nobody"])], 404, "'nobody' is not among"),
        ([], 200, ""),
    ],
)
def test_tensors_that_do_not_fit_are_refused(client: Client, inputs: Any, status: int, says: str) -> None:
    response = client.ask("/v2/models/podx/infer", {"inputs": inputs})
    assert response.status == status
    assert says in response.json.get("error", "")


def test_metrics_count_what_was_asked(client: Client, rec: Recommender) -> None:
    client.ask("/v1/recommend", {"requests": [{"user": KNOWN}, {"user": USER_IDS[2]}]})
    client.ask("/v1/recommend", {"user": "nobody"})
    assert client.metric('podx_requests_total{route="/v1/recommend",status="200"}') == 1
    assert client.metric('podx_requests_total{route="/v1/recommend",status="404"}') == 1
    assert client.metric('podx_request_seconds_count{route="/v1/recommend"}') == 2
    assert client.metric("podx_batch_size_sum") == 2
    assert client.metric('podx_answers_total{exact="unknown",user="known"}') == 2
    assert client.metric("podx_queue_waiting") == 0
    assert client.metric(f'podx_bundle_info{{version="{rec.version}"}}') == 1


@pytest.mark.usefixtures("held")
def test_it_can_be_part_of_another_application(bundle_path: Path) -> None:
    inner = create_app(podx.load(bundle_path, device="cpu"))
    outer = FastAPI()
    outer.mount("/podx", inner)
    with running(outer, inner.state.service) as port:
        client = Client(port)
        assert client.ask("/podx/v1/recommend", {"user": KNOWN}).status == 200
        assert client.ask("/podx/").status == client.ask("/podx/health/ready").status == 200
        assert client.ask("/v1/recommend", {"user": KNOWN}).status == 404
    inner.state.service.close()
