"""``podx encode`` and the lines it reads and writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from podx import cli
from podx.bundle.bundle import Bundle
from podx.bundle.catalog import IdTable
from podx.errors import CatalogError, RequestError, UnknownUserError
from podx.requests.encoder import RequestEncoder
from podx.requests.lines import encode_lines, encoded_line, item_lines, parse_request, write_lines
from podx.requests.types import RankRequest, RecommendRequest
from tests.podx.bundles import ITEM_IDS, USER_IDS

USER = USER_IDS[1]


@pytest.fixture
def encoder(bundle_path: Path) -> RequestEncoder:
    return RequestEncoder(Bundle.load(bundle_path))


def test_a_line_is_a_request() -> None:
    assert parse_request('{"user": "u"}') == RecommendRequest("u")
    assert parse_request('{"user": "u", "history": null, "allow": []}') == RecommendRequest("u", None, (), [])
    full = '{"user": "u", "history": ["a"], "exclude": ["b"], "allow": ["c", "d"]}'
    assert parse_request(full) == RecommendRequest("u", ["a"], ["b"], ["c", "d"])
    ranking = '{"user": "u", "candidates": ["a", "b"], "exclude": ["b"]}'
    assert parse_request(ranking) == RankRequest("u", ["a", "b"], ["b"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("user", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        ('["user"]', "no JSON object"),
        ('{"history": ["a"]}', "there is no user"),
        ('{"user": 3}', "there is no user"),
        ('{"user": "u", "histroy": ["a"]}', "'histroy' is no entry"),
        ('{"user": "u", "candidates": ["a"], "allow": ["b"]}', "'allow' is no entry"),
        ('{"user": "u", "history": "abc"}', "'history' must be a list"),
        ('{"user": "u", "history": ["a", 3]}', "'history' must be a list"),
        ('{"user": "u", "exclude": null}', "'exclude' must be a list"),
        ('{"user": "u", "candidates": null}', "'candidates' must be a list"),
    ],
)
def test_a_line_that_is_none_says_why(line: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        parse_request(line)


def test_a_written_line_has_the_rows_of_the_graph(encoder: RequestEncoder) -> None:
    request = encoder.encode(RecommendRequest(USER, ITEM_IDS[:2], exclude=[ITEM_IDS[1], ITEM_IDS[5]]))
    assert json.loads(encoded_line(request)) == {
        "input_ids": request.text.input_ids.tolist(),
        "whole_word_ids": request.text.whole_word_ids.tolist(),
        "task_id": 0,
        "excluded_items": [1, 2, 6],
        "allowed_items": [],
    }
    ranking = json.loads(encoded_line(encoder.encode(RankRequest(USER, ITEM_IDS[2:4]))))
    assert (ranking["task_id"], ranking["excluded_items"], ranking["allowed_items"]) == (1, [], [3, 4, 0])


def test_the_line_of_an_error_is_named(encoder: RequestEncoder, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(f'\ufeff{{"user": "{USER}"}}\n\n{{"user": "nobody"}}\n', encoding="utf-8")
    lines = encode_lines(path, encoder)
    assert json.loads(next(lines))["task_id"] == 0
    with pytest.raises(UnknownUserError, match=r"requests.jsonl, line 3: user 'nobody' is not among"):
        next(lines)
    path.write_bytes(b'{"user": "\xff"}')
    with pytest.raises(RequestError, match="no UTF-8"):
        list(encode_lines(path, encoder))


def test_line_n_is_item_n(encoder: RequestEncoder) -> None:
    assert list(item_lines(IdTable.of(ITEM_IDS, "item"))) == ITEM_IDS
    with pytest.raises(CatalogError, match="item 2 holds a line break"):
        list(item_lines(IdTable.of(["a", "b\nc"], "item")))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    write_lines(path, ["a", "ü"])
    with pytest.raises(CatalogError):
        write_lines(path, item_lines(IdTable.of(["a", "b\nc"], "item")))
    assert path.read_bytes() == "a\nü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``podx`` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["podx", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command_writes_requests_and_items(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, out, items = tmp_path / "requests.jsonl", tmp_path / "encoded.jsonl", tmp_path / "items.txt"
    lines = [{"user": USER, "history": ITEM_IDS[:8]}, {"user": USER_IDS[-1], "candidates": ITEM_IDS[:2]}]
    requests.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert run(monkeypatch, "encode", bundle_path, requests) == 2
    assert "requests.jsonl, line 1: the history of user" in capsys.readouterr().err
    arguments = ("encode", bundle_path, requests, "--keep-last", "--include-seen")
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert [json.loads(line)["excluded_items"] for line in printed.splitlines()] == [[], []]
    assert run(monkeypatch, *arguments, "--out", out, "--items", items) == 0
    assert out.read_text(encoding="utf-8") == printed
    assert items.read_text(encoding="utf-8").splitlines() == ITEM_IDS
