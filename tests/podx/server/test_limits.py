"""What protects the server: sizes, the queue, time, keys, and clients that leave."""

from __future__ import annotations

import gc
import hmac
import json
import socket
from pathlib import Path

import pytest

from podx.errors import ConfigError
from podx.server import Settings
from podx.serving.batcher import Batcher, BatcherStats
from tests.podx.bundles import USER_IDS
from tests.podx.server.client import Client, until
from tests.podx.server.conftest import HeldModel, Start

KNOWN = USER_IDS[1]
ASK = {"user": KNOWN}
RECOMMEND = "/v1/recommend"


def held_up(client: Client, held: type[HeldModel]) -> None:
    """Keep the worker busy with a request."""
    held.going.clear()
    held.rows.clear()
    client.send(RECOMMEND, ASK)
    until(lambda: held.rows == [1])


@pytest.mark.parametrize("kilobytes", [2, 500])
def test_a_long_body_is_refused(start: Start, kilobytes: int) -> None:
    client = start(max_body_kb=1)
    response = client.ask(RECOMMEND, b" " * 1024 * kilobytes)
    assert (response.status, response.json["type"]) == (413, "BodySizeError")
    assert response.headers["connection"] == "close"
    assert client.ask(RECOMMEND, json.dumps(ASK).encode().ljust(1024)).status == 200


def test_a_body_that_never_ends_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podx.server.answering.DRAINED", 10_000)
    client = start(max_body_kb=1)
    connection = client.send(RECOMMEND, "x" * 20_000, length=10**12)
    assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("part", [b"X-%d: 1\r\n", b"%d"], ids=["many headers", "a long one"])
def test_a_head_that_never_ends_is_cut_off(client: Client, part: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):  # at most what the socket's buffers hold was sent
            for number in range(10_000_000):
                connection.sendall(part % number)


def test_a_long_head_with_its_body_is_read(client: Client) -> None:
    body = json.dumps({**ASK, "exclude": ["B001"] * 9_000}).encode()
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        head = f"POST {RECOMMEND} HTTP/1.1\r\nHost: x\r\nX: {'x' * 50_000}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head.encode() + body) * 2)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2:
            answers += connection.recv(100_000)


def test_a_body_that_comes_too_slowly_is_not_waited_for(start: Start) -> None:
    client = start(timeout_ms=50)
    assert client.send(RECOMMEND, ASK, length=1000).recv(100).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize(
    ("body", "status", "timeout_ms"),
    [
        (ASK, 200, 20_000),
        ({"user": "nobody"}, 404, 20_000),
        ({"user": 1}, 400, 20_000),
        ({"requests": [ASK, {"user": "nobody"}]}, 200, 20_000),
        (ASK, 504, 30),
    ],
    ids=["answer", "unknown", "bad", "several", "late"],
)
def test_what_was_asked_goes_without_a_search_for_garbage(
    start: Start, held: type[HeldModel], body: object, status: int, timeout_ms: int
) -> None:
    client = start(timeout_ms=timeout_ms)
    if status == 504:
        held_up(client, held)
    gc.collect()
    gc.disable()
    try:
        assert {client.ask(RECOMMEND, body).status for _ in range(10)} == {status}
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [found for found in gc.garbage if type(found).__module__.startswith("podx.")]
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert not left


def test_a_full_queue_refuses_at_once(start: Start, held: type[HeldModel]) -> None:
    client = start(max_pending=2, timeout_ms=20_000)
    held_up(client, held)
    waiting = [client.later(RECOMMEND, ASK), client.later(RECOMMEND, ASK)]
    client.waits_for(2)
    refused = client.ask(RECOMMEND, ASK)
    assert (refused.status, refused.json["type"]) == (429, "OverloadedError")
    assert int(refused.headers["retry-after"]) >= 1
    assert client.metric("podx_queue_waiting") == 2
    held.going.set()
    assert [future.result().status for future in waiting] == [200, 200]


@pytest.mark.parametrize(
    ("waiting", "wait_s", "batch_s", "status"),
    [(1, 0.6, 0.5, 429), (255, 0.4, 0.5, 200), (256, 0.1, 0.1, 429), (0, 0.0, 1.1, 200), (31, 0.1, 1.1, 429)],
)
def test_what_would_be_answered_too_late_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, waiting: int, wait_s: float, batch_s: float, status: int
) -> None:
    """With a second for each request and places for 256. An idle server takes a request however slow its last were."""
    monkeypatch.setattr(Batcher, "stats", property(lambda _: BatcherStats(0, 0, 0, waiting, wait_s, batch_s)))
    assert client.ask(RECOMMEND, ASK).status == status


def test_who_has_no_answer_yet_counts_although_it_waits_no_more(client: Client) -> None:
    client.service.unanswered = 256 + 32
    assert client.ask(RECOMMEND, ASK).json["type"] == "OverloadedError"
    client.service.unanswered -= 1
    for _ in range(2):
        assert client.ask(RECOMMEND, ASK).status == 200
    assert client.ask(RECOMMEND, {"user": "nobody"}).status == 404
    assert client.service.unanswered == 256 + 32 - 1, "those that are answered are not counted any more"


def test_many_requests_find_places_together_or_not_at_all(start: Start, held: type[HeldModel]) -> None:
    client = start(max_pending=3, timeout_ms=20_000)
    held_up(client, held)
    client.send(RECOMMEND, ASK)
    client.waits_for(1)
    assert client.ask(RECOMMEND, {"requests": [ASK, ASK, ASK]}).status == 429
    client.waits_for(1)  # the two that found places have left them
    both = client.later(RECOMMEND, {"requests": [ASK, ASK]})
    client.waits_for(3)
    held.going.set()
    assert len(both.result().json["answers"]) == 2


def test_explanations_have_a_queue_too(start: Start, held: type[HeldModel]) -> None:
    client = start(max_pending=4, timeout_ms=20_000)
    held.going.clear()
    first = client.later("/v1/explain", {"user": KNOWN, "item": "B001"})
    until(lambda: held.rows == [1])
    rows = [{"user": KNOWN, "item": item} for item in ("B002", "?", "B003")]
    second = client.later("/v1/explain", {"requests": rows})
    until(lambda: len(client.service._explainer._line) == 3)
    leaving = client.send("/v1/explain", {"user": KNOWN, "item": "B004"})
    until(lambda: len(client.service._explainer._line) == 4)
    assert client.ask("/v1/explain", {"user": KNOWN, "item": "B005"}).json["type"] == "OverloadedError"
    leaving.close()
    until(lambda: len(client.service._explainer._line) == 3)
    held.going.set()
    assert first.result().status == 200
    assert [answer.get("type") for answer in second.result().json["answers"]] == [None, "UnknownItemError", None]
    together = client.ask("/v1/explain", {"requests": [{"user": KNOWN, "item": "B001"}] * 4}).json["answers"]
    assert together == [first.result().json] * 4
    assert len(held.rows) < 1 + 2 + 4, "some were computed together"


def test_a_request_past_its_time_is_dropped(start: Start, held: type[HeldModel]) -> None:
    client = start(timeout_ms=100)
    held_up(client, held)
    late = client.ask(RECOMMEND, {"requests": [ASK, ASK]})
    assert (late.status, late.json["type"]) == (504, "RequestTimeoutError")
    client.waits_for(0)
    held.going.set()
    assert client.ask(RECOMMEND, ASK).status == 200
    assert held.rows == [1, 1], "the late ones were not computed"


def test_who_leaves_takes_the_queued_work_along(start: Start, held: type[HeldModel]) -> None:
    client = start(timeout_ms=20_000)
    held_up(client, held)
    leaving = client.send(RECOMMEND, {"requests": [ASK, ASK]})
    staying = client.later(RECOMMEND, ASK)
    client.waits_for(3)
    leaving.close()
    client.waits_for(1)
    held.going.set()
    assert staying.result().status == 200
    assert held.rows == [1, 1]
    until(lambda: client.metric(f'podx_requests_total{{route="{RECOMMEND}",status="499"}}') == 1)


def test_who_leaves_in_the_middle_of_a_body_is_no_failure(client: Client) -> None:
    client.send(RECOMMEND, ASK, length=1000).close()
    until(lambda: client.metric(f'podx_requests_total{{route="{RECOMMEND}",status="499"}}') == 1)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("the-old-one\n\n  the-new-one \n")
    return path


def test_without_a_key_nothing_is_answered(start: Start, keys: Path) -> None:
    client = start(api_key_file=keys)
    for path in (RECOMMEND, "/v1/rank", "/v1/explain", "/admin/reload", "/v2/models/podx/infer"):
        refused = client.ask(path, ASK)
        assert (refused.status, refused.json["type"]) == (401, "AccessError")
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/bundle", "/metrics", "/openapi.json", "/v2/models/podx", "/nowhere", "//"):
        assert client.ask(path).status == 401
    for path in ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert client.ask(path).status == 200
    assert [client.ask(RECOMMEND, ASK, key).status for key in ("the-old-one", "the-new-one")] == [200, 200]
    assert [client.ask(RECOMMEND, ASK, key).status for key in ("", "the", "the-new-onE", "é")] == [401] * 4
    assert client.ask("/openapi.json", key="the-new-one").json["security"] == [{"key": []}]


def test_keys_are_compared_in_constant_time(start: Start, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return original(given, known)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    start(api_key_file=keys).ask(RECOMMEND, ASK, "the-old-one")
    assert compared == [b"the-old-one", b"the-new-one"], "the second too, although the first was right"


@pytest.mark.parametrize("content", [None, "\n \n"])
def test_a_key_file_without_keys_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"--api-key-file"):
        Settings(api_key_file=path).keys()


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"timeout_ms": 0}, {"max_k": 0}, {"max_pending": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(wrong)).replace("_", "-")):
        Settings(**wrong)  # type: ignore[arg-type]


def test_a_server_that_is_to_end_says_so(client: Client) -> None:
    client.service.ready = False
    assert client.ask("/health/ready").status == client.ask("/v2/health/ready").status == 503
    assert client.ask("/health/live").status == 200
    answered = client.ask(RECOMMEND, ASK)
    assert (answered.status, answered.headers["connection"]) == (200, "close")
    client.service.close()
    for path, body in ((RECOMMEND, ASK), ("/v1/explain", {**ASK, "item": "B001"})):
        closed = client.ask(path, body)
        assert (closed.status, closed.json["type"]) == (503, "ClosedError")
