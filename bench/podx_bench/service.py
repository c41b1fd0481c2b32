"""How a bundle behaves in a service: throughput and latency against the number of clients that ask at the same time.

The clients are threads of one process, each with one request under way (a closed loop), which is how a Python service
meets the runtime. Three ways of asking take turns on the same requests: full batches one after another (the yardstick:
what the model can give), single requests through :class:`podx.Batcher`, and single requests straight to the
recommender. Rates are divided only by the yardstick of the same turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx.serving.batcher import DEFAULT_MAX_WAIT_MS
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx.text.templates import Task
from podx_bench.harness.options import DEFAULT_K, DEVICES, usable_cores
from podx_bench.harness.record_file import RecordFile

DEFAULT_CLIENTS = (1, 2, 4, 8, 16, 32, 64)
DEFAULT_REQUESTS = 256
DEFAULT_ROUNDS = 2
DEFAULT_TOLERANCE = 1e-4
"""Enough for fp32; where activations are quantised by the range of a batch, its other requests move scores further."""
FULL_BATCHES, BATCHER, DIRECT = "full batches", "batcher", "direct"
SERVICE_FILE = "service.json"
_FILE = RecordFile(SERVICE_FILE, "podx-bench-service", 1, "podx bench-service")
TASKS = (Task.SEQUENTIAL, Task.TOPN)


@dataclass(frozen=True)
class ServiceOptions:
    """What is measured.

    Attributes:
        clients: numbers of threads that ask at the same time, ascending.
        requests: single requests of each turn.
        rounds: turns of each way of asking, for each number of clients.
        threads: threads inside an operator; 0: one per usable core.
        max_batch, max_wait_ms: of the batcher; ``max_batch`` is also the size of the yardstick's batches.
        task: sequential or topn. beams, k: of the item search. device: cpu or cuda.
        direct: whether single requests straight to the recommender are measured, too.
        check: requests whose answers are compared with the right ones; 0: none.
        tolerance: largest difference between scores that is taken for rounding in that comparison.
        seed: which users are taken.
    """

    clients: tuple[int, ...] = DEFAULT_CLIENTS
    requests: int = DEFAULT_REQUESTS
    rounds: int = DEFAULT_ROUNDS
    threads: int = 0
    max_batch: int = DEFAULT_BATCH_SIZE
    max_wait_ms: float = DEFAULT_MAX_WAIT_MS
    task: Task = Task.SEQUENTIAL
    beams: int = DEFAULT_BEAMS
    k: int = DEFAULT_K
    device: str = "cpu"
    direct: bool = True
    check: int = 0
    tolerance: float = DEFAULT_TOLERANCE
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.clients or min(self.clients) < 1:
            raise ConfigError(f"--clients needs one or more numbers of at least 1, not {self.clients}")
        for name in ("requests", "rounds", "max_batch", "beams", "k"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("threads", "max_wait_ms", "check", "tolerance", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name.replace('_', '-')} must not be negative, but is {getattr(self, name)}")
        if self.task not in TASKS:
            raise ConfigError(f"--task must be one of {', '.join(TASKS)}, not {self.task}")
        if self.device not in DEVICES:
            raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, not {self.device!r}")

    @property
    def thread_count(self) -> int:
        """Threads inside an operator."""
        return self.threads or usable_cores()

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {**dataclasses.asdict(self), "task": self.task.value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ServiceOptions:
        """Read what :meth:`as_json` gave."""
        return cls(**{**content, "task": Task(content["task"]), "clients": tuple(content["clients"])})


@dataclass(frozen=True)
class ServiceRecord:
    """One way of asking, by one number of clients.

    Attributes:
        mode: ``full batches`` (the yardstick), ``batcher`` or ``direct``. clients: threads that ask; 1 for batches.
        requests: single requests timed, all rounds together. rounds: turns.
        users_per_s: requests ÷ time, over all turns.
        p50_ms, p95_ms, p99_ms: from a client's question to its answer; for full batches of a whole call.
        mean_batch: requests per call of the model.
        ratio: users_per_s ÷ that of full batches in the same turn, median over the turns; None for these themselves.
    """

    mode: str
    clients: int
    requests: int
    rounds: int
    users_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_batch: float
    ratio: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ServiceRecord:
        """Read what :meth:`as_json` gave."""
        return cls(**content)


@dataclass(frozen=True)
class CheckRecord:
    """Answers of the batcher compared with those of ``recommend_batch`` or ``rank_batch``.

    Attributes:
        requests: pushed through by ``clients`` threads in ``seconds``.
        distinct: different answers among the right ones, scores included; only a swap of two of these can be seen.
        lost: requests that got no answer.
        wrong: answers whose scores differ from the right ones by more than ``ServiceOptions.tolerance`` at some place.
        rounded: answers with the right scores but other items in some places: a call of another size rounds
            differently, and items of like score change places. Not among ``wrong``.
    """

    requests: int
    clients: int
    distinct: int
    lost: int
    wrong: int
    rounded: int
    seconds: float


@dataclass(frozen=True)
class ServiceResults:
    """A run: where and on what it was made, what was asked for and what was found."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    records: tuple[ServiceRecord, ...] = ()
    check: CheckRecord | None = None

    def save(self, folder: Path) -> Path:
        """Write ``service.json`` under a temporary name and rename it; returns its path."""
        return _FILE.write(folder, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> ServiceResults:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, is no such file, or has another format version.
        """
        content = _FILE.read(path)
        try:
            records = tuple(ServiceRecord.from_json(raw) for raw in content.pop("records"))
            check = content.pop("check")
            return cls(**content, records=records, check=None if check is None else CheckRecord(**check))
        except (KeyError, TypeError) as error:
            raise _FILE.damaged(path, error) from error
