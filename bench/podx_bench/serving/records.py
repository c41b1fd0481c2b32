"""What campaigns show of a server, against which bounds, and the file it is kept in."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from podx.errors import ConfigError
from podx.flags import option
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx_bench.harness.options import DEFAULT_K, DEVICES, BaseOptions, parse_numbers
from podx_bench.harness.record_file import RecordFile

CAMPAIGNS = {
    "load": "clients that ask at the same time, each its next question when it has an answer",
    "soak": "80 % of what the server can answer, at random times",
    "overload": "five times what it can answer",
    "swap": "other bundles under load, every tenth broken",
    "stop": "SIGTERM and kill -9 under load, and starts anew",
    "vanish": "30 % of the clients leave while their requests wait",
    "schema": "requests made up from the server's own OpenAPI document",
    "bundles": "damaged bundles, one fault in each, in half of them under checksums that are right",
    "library": "random requests through the library",
}
"""Name on the command line, and what is done."""


Size = namedtuple("Size", "load_s rounds soak_s overload_s swaps stops bursts cases bundles library")
"""How many seconds campaigns take, or how much they do."""
FULL = Size(8, 3, 1800, 30, 500, 10, 20, 10**5, 10**4, 10**6)
SHORT = Size(0.5, 1, 2, 1, 10, 1, 2, 200, 40, 2000)


def parse_campaigns(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list, in the order of :data:`CAMPAIGNS`.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if not names or not names <= set(CAMPAIGNS):
        raise ConfigError(f"--campaigns must name some of {','.join(CAMPAIGNS)}, not {text!r}")
    return tuple(name for name in CAMPAIGNS if name in names)


@dataclass(frozen=True)
class ServingOptions(BaseOptions):
    """What is done. Clients share the machine with the server."""

    campaigns: tuple[str, ...] = option(
        tuple(CAMPAIGNS), f"Comma-separated: {','.join(CAMPAIGNS)}.", parse=parse_campaigns
    )
    short: bool = option(False, "A minute or two for all; times are shown and not judged.", flag="--short")
    clients: tuple[int, ...] = option(
        (1, 8, 32, 64, 128),
        "Numbers of clients that ask at the same time.",
        parse=partial(parse_numbers, flag="--clients"),
        least=1,
    )
    soak_minutes: float | None = option(None, "Length of the soak; default: 30.", above=0)
    cases: int | None = option(None, "Requests of schema and library, and damaged bundles; default: theirs.", least=1)
    max_batch: int = option(DEFAULT_BATCH_SIZE, "Most requests of one call of the model.", least=1)
    timeout_ms: float = option(1000.0, "Milliseconds in which the server answers or refuses; load: 30,000.", above=0)
    k: int = option(DEFAULT_K, "Answers per request.", flag="-k,--count", least=1)
    device: str = option("cpu", "cpu or cuda.", choices=DEVICES)

    @property
    def size(self) -> Size:
        """How much is done."""
        return SHORT if self.short else FULL

    @property
    def judged(self) -> bool:
        """Whether times count."""
        return not self.short


@dataclass(frozen=True)
class Check:
    """A figure against what it must be.

    Attributes:
        name: what it is of, its unit included. bound: what it must be, in words.
        passed: None: it is only shown.
    """

    name: str
    value: float
    bound: str = ""
    passed: bool | None = None


def at_most(name: str, value: float, bound: float, judged: bool = True) -> Check:
    """A figure that must not be larger."""
    return Check(name, value, f"≤ {bound:g}", value <= bound if judged else None)


def at_least(name: str, value: float, bound: float, judged: bool = True) -> Check:
    """A figure that must not be smaller."""
    return Check(name, value, f"≥ {bound:g}", value >= bound if judged else None)


def none(name: str, count: int) -> Check:
    """Something that must not happen."""
    return Check(name, count, "0", count == 0)


@dataclass(frozen=True)
class LoadRecord:
    """The server with so many clients. ``ratio``: to full batches in the same turn, median over the turns.

    ``users_per_s``: answers a second. ``batch``: requests of a call of the model. ``client_cores``: that all clients
    together kept busy.
    """

    clients: int
    requests: int
    users_per_s: float
    ratio: float
    p50_ms: float
    p99_ms: float
    batch: float
    client_cores: float


@dataclass(frozen=True)
class CampaignRecord:
    """A campaign. ``seconds``: that it took. ``load``: of the campaign of that name. ``notes``: what went wrong."""

    name: str
    seconds: float
    checks: tuple[Check, ...]
    load: tuple[LoadRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every bound is kept."""
        return all(check.passed is not False for check in self.checks)


@dataclass(frozen=True)
class ServingResults:
    """A run: where and on what it was made, what was asked for and what was shown."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    records: tuple[CampaignRecord, ...]


SERVING_FILE = RecordFile("serving.json", "podx-serving", 2, "podx bench serving", ServingResults)
