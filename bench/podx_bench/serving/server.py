"""``podx serve`` as a process of its own, and full batches in another to compare it with."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import cast

import psutil

import podx
from podx.graphs.session import Device
from podx.requests.types import RecommendRequest
from podx.text.templates import Task
from podx_bench.engines.runtime import list_requests
from podx_bench.harness.child import EngineError, thread_environment
from podx_bench.harness.resources import MEGABYTE
from podx_bench.serving.client import OK, Connection, run, written
from podx_bench.workload.work import WorkItem

COMMAND = (sys.executable, "-c", "from podx.cli import main; main()", "serve")
KEY = secrets.token_hex()
QUIT_S = 60.0


class Served(AbstractContextManager["Served"]):
    """A server on a port of its own. A context manager: leaving it ends the server.

    Args:
        bundle: what it answers from.
        flags: of ``podx serve``.

    Attributes:
        process: the server. start_s: from its start to its first answer.

    Raises:
        EngineError: it does not start.
    """

    def __init__(self, bundle: Path, flags: Sequence[str], first: bytes, port: int = 0) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="podx-serving-")
        keys, self._log = Path(self._files.name, "keys"), Path(self._files.name, "stderr")
        keys.write_text(KEY)
        start = time.perf_counter()
        command = [*COMMAND, str(bundle), "--port", str(port), "--api-key-file", str(keys), *flags]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=thread_environment(0)
            )
        assert self.process.stdout is not None
        try:
            said = re.search(r":(\d+)/", self.process.stdout.readline())
        except KeyboardInterrupt:
            self.close()
            raise
        if said is None:
            raise EngineError(f"podx serve does not start: {self.close() or 'it says nothing'}")
        self.port = int(said[1])
        status, body = self.ask(first)
        if status != OK:
            raise EngineError(f"podx serve does not answer {first!r}: {body!r}; {self.close()}")
        self.start_s = time.perf_counter() - start

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of one answer."""
        return run(Connection(self.port).ask(request))

    def metrics(self, before: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        """What ``/metrics`` says, by name and labels, less what it said before."""
        lines = self.ask(written("/metrics", key=KEY))[1].decode().splitlines()
        parts = (line.rpartition(" ") for line in lines if line[0] != "#")
        return {name: float(value) - before.get(name, 0.0) for name, _, value in parts}

    @property
    def rss_mb(self) -> float:
        """Resident memory of the process now, MB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / MEGABYTE

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> str:
        """End it, and return what it wrote on stderr."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(QUIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr] # a pipe
        said = self._log.read_text(errors="replace") if self._log.exists() else ""
        self._files.cleanup()
        return said


class FullBatches:
    """What the model gives with no server around it: ``recommend_batch``, one full batch after another."""

    def __init__(self, bundle: Path, device: str, threads: int, asked: list[WorkItem], size: int, k: int) -> None:
        self._recommender = podx.load(bundle, cast(Device, device), threads=threads, tasks=[Task.SEQUENTIAL])
        self._requests: list[RecommendRequest] = list_requests(Task.SEQUENTIAL, asked)
        self._size, self._k = size, k

    def rate(self, seconds: float) -> float:
        """Answers a second, over so many seconds."""
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            batch = [self._requests[(done + place) % len(self._requests)] for place in range(self._size)]
            self._recommender.recommend_batch(batch, self._k, batch_size=self._size)
            done += self._size
        return done / (time.perf_counter() - start)
