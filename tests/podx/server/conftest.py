"""A server in a thread of the test's process, whose model can be held up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI

import podx
from podx.server import Settings, create_app
from podx.server.command import Server, listen
from podx.text.inputs import Batch
from tests.podx.fakes import FakeGraphModel
from tests.podx.server.client import Client

Start = Callable[..., Client]


class HeldModel(FakeGraphModel):
    """Answers once ``going`` is set; ``rows``: how many requests each batch had."""

    going = threading.Event()
    rows: ClassVar[list[int]] = []

    def encode(self, batch: Batch, task_id: int) -> Any:
        """Wait first."""
        self.rows.append(batch.size)
        assert self.going.wait(30)
        return super().encode(batch, task_id)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HeldModel]]:
    """Models made from here on are held up while ``held.going`` is cleared."""
    HeldModel.going.set()
    HeldModel.rows = []
    monkeypatch.setattr("podx.snapshot.GraphModel", HeldModel)
    yield HeldModel
    HeldModel.going.set()


@contextlib.contextmanager
def running(app: FastAPI, service: Any) -> Iterator[int]:
    """Port of an application that is served by a thread."""
    listening = listen("127.0.0.1", 0)
    server = Server(app, service)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        HeldModel.going.set()
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def start(held: type[HeldModel], bundle_path: Path) -> Iterator[Start]:
    """Starts servers: ``start(path, load=…, **settings)`` gives a client of a new one."""
    with contextlib.ExitStack() as stack:

        def of(path: Path = bundle_path, load: dict[str, Any] | None = None, **settings: Any) -> Client:
            recommender = podx.load(path, device="cpu", **(load or {}))
            held.rows.clear()  # of the requests that loading answers
            app = create_app(recommender, Settings(**settings))
            return Client(stack.enter_context(running(app, app.state.service)), app.state.service)

        yield of


@pytest.fixture
def client(start: Start) -> Client:
    """Of a server with the usual settings."""
    return start()
