"""Another bundle under way: by the admin's route, and because the folder was replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from podx.server.watch import Watch, fingerprint
from tests.podx.bundles import ITEM_IDS, USER_IDS, write_bundle
from tests.podx.server.client import Client
from tests.podx.server.conftest import Start

ASK = {"user": USER_IDS[1]}
KEY = "a-key"


@pytest.fixture
def shelf(tmp_path: Path, tokenizer_path: Path) -> Path:
    """A folder of bundles: ``served``, ``next`` and ``broken``, and outside of it ``outside``."""
    folder = tmp_path / "shelf"
    write_bundle(folder / "served", tokenizer_path)
    write_bundle(folder / "next", tokenizer_path, item_ids=ITEM_IDS[::-1])
    shutil.copytree(folder / "next", folder / "broken")
    (folder / "broken" / "users.bin").write_bytes(b"?")
    shutil.copytree(folder / "next", tmp_path / "outside")
    return folder


@pytest.fixture
def client(start: Start, shelf: Path, tmp_path: Path) -> Client:
    (tmp_path / "keys").write_text(KEY)
    return start(shelf / "served", api_key_file=tmp_path / "keys")


def version(client: Client) -> str:
    """Of the bundle that answers."""
    answer = client.ask("/v1/recommend", ASK, KEY).json["bundle"]
    assert client.ask("/v1/bundle", key=KEY).json["bundle"] == answer
    return str(answer)


def test_the_admin_changes_the_bundle(client: Client) -> None:
    before = version(client)
    explained = client.ask("/v1/explain", {**ASK, "item": "B001"}, KEY).json["bundle"]
    reloaded = client.ask("/admin/reload", {"path": "next"}, KEY)
    assert reloaded.status == 200 and reloaded.json["bundle"] != before == explained
    assert version(client) == reloaded.json["bundle"]
    assert client.ask("/v1/explain", {**ASK, "item": "B001"}, KEY).json["bundle"] == reloaded.json["bundle"]
    assert client.ask("/admin/reload", b"", KEY).json["bundle"] == before, "without a path: the first folder again"


def test_a_broken_bundle_is_refused_and_the_other_goes_on(client: Client) -> None:
    before = version(client)
    refused = client.ask("/admin/reload", {"path": "broken"}, KEY)
    assert (refused.status, refused.json["type"]) == (400, "SwapError")
    assert "users.bin" in refused.json["error"]
    assert version(client) == before
    refusals = client.ask("/metrics", key=KEY).body.decode()
    assert 'podx_swaps_total{result="refused"} 1.0' in refusals


@pytest.mark.parametrize("path", ["../outside", "/etc", "link", "a\0b"])
def test_nothing_is_read_elsewhere(client: Client, shelf: Path, path: str) -> None:
    (shelf / "link").symlink_to(shelf.parent / "outside")
    before = version(client)
    refused = client.ask("/admin/reload", {"path": path}, KEY)
    assert (refused.status, refused.json["type"]) == (400, "ConfigError")
    assert version(client) == before
    assert client.ask("/admin/reload", {"path": 1}, KEY).json["type"] == "RequestError"


def test_a_folder_that_was_replaced_is_taken_over_when_it_is_whole(start: Start, shelf: Path) -> None:
    served = shelf / "served"
    client = start(served)
    before = version(client)
    watch = Watch(client.service, served, fingerprint(served))
    watch.look()
    assert client.metric('podx_swaps_total{result="taken"}') == 0, "nothing has changed"
    served.rename(shelf / "old")
    watch.look()  # just now there is none
    (shelf / "broken").rename(served)
    watch.look()
    watch.look()
    watch.look()
    assert client.metric('podx_swaps_total{result="refused"}') == 1, "once, not at every look"
    assert version(client) == before
    shutil.copy(shelf / "next" / "users.bin", served / "users.bin")
    watch.look()
    assert version(client) == before, "more may change"
    watch.look()
    assert version(client) != before
    assert client.metric('podx_swaps_total{result="taken"}') == 1
