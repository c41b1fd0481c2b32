"""``podx serve`` as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import podx.server
from podx.cli import main
from podx.errors import ConfigError, DependencyError
from podx.server.command import DOORS, Server, let_nobody_in, listen
from tests.podx.bundles import ITEM_IDS, USER_IDS, write_bundle
from tests.podx.fakes import FakeGraphModel
from tests.podx.server.client import Client, until
from tests.podx.server.launch import DELAY
from tests.podx.test_layers import BLOCKER, NEVER_IN_THE_RUNTIME, REPOSITORY, run_python

ASK = {"user": USER_IDS[1]}


@dataclass(frozen=True)
class Process:
    """A server. ``first``: the line it prints when it is ready."""

    process: subprocess.Popen[str]
    first: str
    client: Client


@contextlib.contextmanager
def serving(bundle: Path, *flags: str, delay_s: float = 0.0) -> Iterator[Process]:
    """A server on any free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.podx.server.launch", "serve", str(bundle), "--port", "0", *flags],
        cwd=REPOSITORY,
        env={**os.environ, DELAY: str(delay_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        port = re.search(r":(\d+)/", first)
        assert port, process.stderr.read()
        yield Process(process, first, Client(int(port[1])))
    finally:
        process.kill()
        process.communicate()


def test_it_says_where_it_is_and_answers(bundle_path: Path) -> None:
    with serving(bundle_path, "--max-k", "3", "--keep-last") as server:
        assert str(bundle_path) in server.first and server.client.url in server.first
        until(lambda: server.client.ask("/health/ready").status == 200)
        answer = server.client.ask("/v1/recommend", {**ASK, "history": ITEM_IDS[:7], "k": 3}).json
        assert len(answer["items"]) == 3 and answer["bundle"] in server.first
        assert server.client.ask("/v1/recommend", {**ASK, "k": 4}).status == 400


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_its_end_every_accepted_request_is_answered(bundle_path: Path, number: signal.Signals) -> None:
    """Clients ask by lasting connections. Each hears that its connection ends, and none is cut off."""
    with serving(bundle_path, "--timeout-ms", "20000", delay_s=0.01) as server:
        outcomes: list[list[str]] = [[] for _ in range(12)]

        def ask(seen: list[str]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.client.port, timeout=20)
            while seen[-1:] != ["last"]:
                connection.request("POST", "/v1/recommend", json.dumps(ASK))
                response = connection.getresponse()
                assert response.status == 200 and len(json.loads(response.read())["items"]) == 10
                seen.append("last" if response.getheader("connection") == "close" else "answered")
                time.sleep(0.02)  # nothing is asked on the connection meanwhile

        threads = [threading.Thread(target=ask, args=(seen,)) for seen in outcomes]
        for thread in threads:
            thread.start()
        until(lambda: all(len(seen) > 2 for seen in outcomes))
        server.process.send_signal(number)
        for thread in threads:
            thread.join(20)
        assert [seen[-1] for seen in outcomes] == ["last"] * 12
        assert server.process.wait(20) == 0
        with pytest.raises(ConnectionError):
            server.client.ask("/health/live")


def test_at_its_end_who_has_just_come_is_not_cut_off(bundle_path: Path) -> None:
    """Clients come by new connections all the time: each is answered or finds the door closed, never a broken one."""
    with serving(bundle_path, "--timeout-ms", "20000", delay_s=0.002) as server:
        broken: list[Exception] = []
        answered: list[int] = []

        def ask() -> None:
            while True:
                try:
                    answered.append(server.client.ask("/v1/recommend", ASK).status)
                except ConnectionRefusedError:
                    return
                except (OSError, http.client.HTTPException) as error:
                    broken.append(error)

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 100)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert server.process.wait(20) == 0
    assert not broken and set(answered) == {200}


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")
def test_nobody_new_comes_in_while_those_inside_are_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        before = socket.create_connection(door.getsockname())
        let_nobody_in(door)
        with pytest.raises(TimeoutError):
            socket.create_connection(door.getsockname(), timeout=0.3)
        inside, _ = door.accept()  # from the queue
        before.sendall(b"hello")
        assert inside.recv(5) == b"hello"
        before.close()
        inside.close()


def test_many_new_clients_are_taken_on_in_one_round_of_the_loop(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds are long under load: with one handle of the socket, the last of many would wait for as many rounds.

    And no round waits until all that is loaded was looked through for garbage.
    """
    doors, frozen = list[socket.socket](), list[bool]()
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(True))
    monkeypatch.setattr("podx.snapshot.GraphModel", FakeGraphModel)
    monkeypatch.setattr(Server, "run", lambda self, sockets: doors.extend(sockets))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["podx", "serve", str(bundle_path), "--port", "0"])
    with contextlib.suppress(SystemExit):
        main()
    assert len(doors) == DOORS > 100 and frozen
    assert len({door.getsockname() for door in doors}) == 1
    for door in doors:
        door.close()


def test_it_takes_over_a_bundle_that_replaces_the_folder(tmp_path: Path, tokenizer_path: Path) -> None:
    served = write_bundle(tmp_path / "served", tokenizer_path)
    write_bundle(tmp_path / "next", tokenizer_path, item_ids=ITEM_IDS[::-1])
    with serving(served, "--watch") as server:
        before = server.client.ask("/v1/bundle").json["bundle"]
        served.rename(tmp_path / "old")
        (tmp_path / "next").rename(served)
        until(lambda: server.client.ask("/v1/bundle").json["bundle"] != before)
        server.process.terminate()
        _, errors = server.process.communicate(timeout=20)
        assert "now serving" in errors and server.process.returncode == 0


def test_what_stops_the_start_is_told_without_a_traceback(bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        podx_serve = [sys.executable, "-m", "tests.podx.server.launch", "serve", str(bundle_path), "--port", port]
        done = subprocess.run(podx_serve, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot listen on") and "another --host or --port" in done.stderr


def test_addresses_of_version_6_are_listened_on() -> None:
    try:
        with listen("::1", 0) as listening:
            assert listening.family is socket.AF_INET6
    except ConfigError as error:
        pytest.skip(f"this machine has no such address: {error}")


def test_it_needs_no_torch() -> None:
    code = BLOCKER.format(blocked=NEVER_IN_THE_RUNTIME)
    code += "import podx.server.command; print(sorted(BLOCKED & set(sys.modules)))"
    assert run_python(code) == "[]\n"


def test_without_the_extra_podx_works_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; import podx.cli; sys.argv = ['podx', {!r}, {!r}]; podx.cli.main()"
    )
    run = [
        subprocess.run([sys.executable, "-c", code.format(*words)], capture_output=True, text=True, timeout=60)
        for words in (("recommend", "--help"), ("serve", "--help"))
    ]
    assert run[0].returncode == 0
    assert run[1].returncode == 2
    assert run[1].stderr == "error: podx serve needs fastapi, which is not installed: pip install 'podx[serve]'\n"


def test_the_application_names_the_extra_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "podx.server.app", None)
    with pytest.raises(DependencyError, match=r"pip install 'podx\[serve\]'"):
        _ = podx.server.create_app
    with pytest.raises(AttributeError, match="no attribute 'create'"):
        _ = podx.server.create
