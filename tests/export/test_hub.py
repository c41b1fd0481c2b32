"""Bundles on the Hugging Face Hub, against a server of a few routes that stands in for it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import podx
from podx import hub
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE
from podx.errors import BundleError, ConfigError, DependencyError

NAME = "someone/a-model"


class StandIn(ThreadingHTTPServer):
    """Keeps what is pushed to it, by commit. ``asked``: methods and paths, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(b"".join(files.values())).hexdigest()
        self.repos[name][sha] = files
        self.heads[name] = sha
        return sha


class Routes(BaseHTTPRequestHandler):
    """The routes by which the client makes a model, writes a commit, and reads one."""

    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: bytes | dict[str, Any] | list[Any], **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self) -> None:
        self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
            head = self.server.heads.get(name)
            if head is None or (rest and rest[-1] not in ("main", head, "tree") and rest[0] == "revision"):
                return self.missing()
            files = self.server.repos[name][head]
            if rest and rest[0] == "tree":
                entries = [{"type": "file", "path": file, "size": len(files[file]), "oid": "0"} for file in files]
                return self.reply(200, entries)
            return self.reply(200, {"id": name, "sha": head, "siblings": [{"rfilename": file} for file in files]})
        name, file = "/".join(parts[:2]), parts[-1]
        content = self.server.repos.get(name, {}).get(self.server.heads.get(name, ""), {}).get(file)
        if content is None:
            return self.missing()
        tag = hashlib.sha256(content).hexdigest()
        return self.reply(200, content, ETag=f'"{tag}"', X_Repo_Commit=self.server.heads[name])

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        self.server.blobs[self.path.rpartition("/")[2]] = self.body()
        self.reply(200, {})

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body, parts = self.body(), self.path.partition("?")[0].strip("/").split("/")
        if parts[-1] == "validate-yaml":  # of the card
            return self.reply(200, {"errors": [], "warnings": []})
        if parts[-1] == "create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repos.setdefault(name, {})
            if name not in self.server.heads:
                self.server.commit(name, {".gitattributes": b""})
            return self.reply(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if parts[-1] == "batch":  # large files, by the protocol of git-lfs
            address = f"{self.server.address}/upload/"
            objects = [
                {**one, "actions": {"upload": {"href": address + one["oid"], "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return self.reply(200, {"transfer": "basic", "objects": objects})
        name = "/".join(parts[2:4])
        if name not in self.server.repos:
            return self.missing()
        if parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".bin") else "regular"}
                for one in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
        return self.reply(200, self._commit(name, [json.loads(line) for line in body.splitlines()]))

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        files = dict(self.server.repos[name][self.server.heads[name]])
        for line in lines:
            value = line["value"]
            if line["key"] == "deletedFile":
                files.pop(value["path"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = self.server.commit(name, files)
        return {"success": True, "commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha}


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(stand_in: StandIn, cache: Path, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: the client reads the endpoint when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": stand_in.address,
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_stand_in",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "no_proxy": "127.0.0.1",
    }
    program = [sys.executable, "-c", "from podx.cli import main; main()", *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, cwd=cache)


def test_a_bundle_is_pushed_and_loaded_again(stand_in: StandIn, trained_bundle: Path, tmp_path: Path) -> None:
    pushed = run(stand_in, tmp_path, "push", str(trained_bundle), NAME, "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{stand_in.address}/{NAME}/commit/{stand_in.heads[NAME]}"
    bundle = Bundle.load(trained_bundle)
    held = stand_in.repos[NAME][stand_in.heads[NAME]]
    assert held.keys() == {*bundle.manifest.files, MANIFEST_FILE, hub.CARD_FILE, ".gitattributes"}
    assert all(held[name] == (trained_bundle / name).read_bytes() for name in bundle.manifest.files)

    asked = ("recommend", NAME, "--user", "user-3", "--json")
    found = run(stand_in, tmp_path, *asked)
    assert found.returncode == 0, found.stderr
    wanted = [(answer.item, answer.score) for answer in podx.load(trained_bundle).recommend("user-3")]
    assert [one["item"] for one in json.loads(found.stdout)] == [item for item, _ in wanted]
    before = len(stand_in.asked)
    again = run(stand_in, tmp_path, *asked, offline=True)
    assert again.stdout == found.stdout and len(stand_in.asked) == before
    (tmp_path / NAME).mkdir(parents=True)  # a folder of this name wins
    assert "holds no manifest.json" in run(stand_in, tmp_path, *asked).stderr


def test_what_the_hub_refuses_is_named(stand_in: StandIn, trained_bundle: Path, tmp_path: Path) -> None:
    found = run(stand_in, tmp_path, "recommend", "someone/nothing", "--user", "user-3")
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "there is no folder someone/nothing, and the Hugging Face Hub does not give us" in found.stderr
    offline = run(stand_in, tmp_path, "recommend", "someone/nothing", "--user", "user-3", offline=True)
    assert offline.returncode == 2 and "check name, revision and network" in offline.stderr
    wrong = run(stand_in, tmp_path, "push", str(trained_bundle), "no-owner")
    assert wrong.returncode == 2 and "write owner/name" in wrong.stderr
    damaged = run(stand_in, tmp_path, "push", str(tmp_path), NAME)
    assert damaged.returncode == 2 and "holds no manifest.json" in damaged.stderr


def test_without_the_client_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"no folder someone/thing.*pip install 'podx\[hub\]', or give a folder"):
        podx.load("someone/thing")


def test_only_a_missing_owner_and_name_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for path in ("./someone/thing", str(tmp_path / "thing"), "a/b/c", "thing", "someone/.."):
        with pytest.raises(BundleError, match=r"holds no manifest\.json"):
            podx.load(path)
    with pytest.raises(ConfigError, match="leave it out"):
        podx.load(tmp_path, revision="v1")
