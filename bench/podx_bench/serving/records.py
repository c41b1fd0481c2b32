"""What is measured of a bundle in a service, and the file it is kept in.

The clients are threads of one process, each with one request under way (a closed loop), which is how a Python service
meets the runtime. Three ways of asking take turns on the same requests: full batches one after another (the yardstick:
what the model can give), single requests through :class:`podx.Batcher`, and single requests straight to the
recommender. Rates are divided only by the yardstick of the same turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.flags import option
from podx.serving.batcher import DEFAULT_MAX_WAIT_MS
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx.text.templates import Task
from podx_bench.harness.options import DEFAULT_K, DEVICES, BaseOptions, parse_numbers
from podx_bench.harness.record_file import RecordFile

FULL_BATCHES, BATCHER, DIRECT = "full batches", "batcher", "direct"


@dataclass(frozen=True)
class ServingOptions(BaseOptions):
    """What is measured. ``max_batch`` is also the size of the yardstick's batches."""

    clients: tuple[int, ...] = option(
        (1, 2, 4, 8, 16, 32, 64),
        "Numbers of threads that ask at the same time.",
        parse=partial(parse_numbers, flag="--clients"),
        least=1,
    )
    requests: int = option(256, "Requests of each turn.", least=1)
    rounds: int = option(2, "Turns of each way of asking.", least=1)
    max_batch: int = option(
        DEFAULT_BATCH_SIZE, "Most requests that are merged; also the size of full batches.", least=1
    )
    max_wait_ms: float = option(DEFAULT_MAX_WAIT_MS, "Longest pause of the batcher after a batch.", least=0)
    task: Task = option(Task.SEQUENTIAL, "sequential or topn.", choices=(Task.SEQUENTIAL, Task.TOPN))
    beams: int = option(DEFAULT_BEAMS, "Width of the item search.", least=1)
    k: int = option(DEFAULT_K, "Answers per request.", flag="-k,--count", least=1)
    device: str = option("cpu", "cpu or cuda.", choices=DEVICES)


@dataclass(frozen=True)
class ServingRecord:
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


@dataclass(frozen=True)
class ServingResults:
    """A run: where and on what it was made, what was asked for and what was measured."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    records: tuple[ServingRecord, ...]


SERVING_FILE = RecordFile("serving.json", "podx-serving", 1, "podx bench serving", ServingResults)
