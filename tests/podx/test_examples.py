"""The service that the README points to."""

from __future__ import annotations

import json
import runpy
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import podx
from tests.podx.bundles import USER_IDS

SERVICE = Path(__file__).resolve().parents[2] / "examples" / "serve.py"


@pytest.mark.usefixtures("fake_model")
def test_the_service_answers_and_says_what_is_wrong(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SERVICE), str(bundle_path)])
    handler = runpy.run_path(str(SERVICE))["Handler"]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/recommend"
        with urlopen(f"{address}?user={USER_IDS[1]}&k=3") as response:
            answers = json.load(response)
        with pytest.raises(HTTPError) as unknown:
            urlopen(f"{address}?user=nobody")
        with pytest.raises(HTTPError) as nameless:
            urlopen(address)
        server.shutdown()
    expected = podx.load(bundle_path, device="cpu").recommend(USER_IDS[1], k=3)
    assert [answer["item"] for answer in answers] == [answer.item for answer in expected]
    assert unknown.value.code == nameless.value.code == 400
    assert "'nobody' is not among" in json.load(unknown.value)["error"]
