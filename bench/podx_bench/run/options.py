"""What a run of the bench may be asked to do. Frozen, and verified where it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.harness.options import DEFAULT_K, DEVICES, LEAST_ACCURACY_K, usable_cores

DEFAULT_BATCH_SIZES = (1, 32)
DEFAULT_SPEED_USERS = 64
DEFAULT_EAGER_USERS = 256
DEFAULT_ROUNDS = 5
DEFAULT_STREAM_BATCH = 32


@dataclass(frozen=True)
class BenchOptions:
    """Options of a run.

    Attributes:
        tasks: tasks to run; None: every task of the bundle that the data has test records for.
        batch_sizes: requests per timed call.
        engines: names (see :mod:`podx_bench.engines`); None: the default ones.
        users: users of the test split that take part; None: all.
        speed_users: how many of them the speed runs go through, in ``rounds`` parts.
        accuracy_users: how many of them accuracy is measured on; None: all that take part.
        eager_users: the most users that slow engines (all but ours) are measured on.
        device: ``cpu`` or ``cuda``.
        threads: threads of every engine; 0: one per usable core.
        rounds: turns of each engine.
        beams: width of the item search.
        k: answers asked for.
        seed: which users are taken.
        spin: let waiting threads of every engine spin: a little faster on a machine with nothing else to do, and many
            times slower, for PyTorch most of all, on one that has.
        max_minutes: stop measuring after this long and report what there is; None: no limit.
        speed, accuracy: which halves to run.
        source_length: time requests whose inputs have this many tokens, prompt vectors not counted; None: as they come.
        stream_users: users of the first part of the split that every engine gets in one call; None: not measured.
        stream_batch: how many of them it runs at a time. stream_rounds: passes of each engine.
        roofline: measure the machine's own rate of multiplying matrices, where speed is measured on a CPU.
    """

    tasks: tuple[Task, ...] | None = None
    batch_sizes: tuple[int, ...] = DEFAULT_BATCH_SIZES
    engines: tuple[str, ...] | None = None
    users: int | None = None
    speed_users: int = DEFAULT_SPEED_USERS
    accuracy_users: int | None = None
    eager_users: int = DEFAULT_EAGER_USERS
    device: str = "cpu"
    threads: int = 0
    rounds: int = DEFAULT_ROUNDS
    beams: int = DEFAULT_BEAMS
    k: int = DEFAULT_K
    seed: int = 0
    spin: bool = False
    max_minutes: float | None = None
    speed: bool = True
    accuracy: bool = True
    source_length: int | None = None
    stream_users: int | None = None
    stream_batch: int = DEFAULT_STREAM_BATCH
    stream_rounds: int = 1
    roofline: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("speed_users", "eager_users", "rounds", "beams", "k", "stream_batch", "stream_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_flag(name)} must be at least 1, not {getattr(self, name)}")
        for name in ("users", "accuracy_users", "max_minutes", "source_length", "stream_users"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{_flag(name)} must be above zero, not {value}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"--batch-sizes needs one or more numbers of at least 1, not {self.batch_sizes}")
        if self.device not in DEVICES:
            raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.threads < 0 or self.seed < 0:
            raise ConfigError("--threads and --seed must not be negative")
        if self.k > self.beams:
            raise ConfigError(f"-k {self.k} and --beams {self.beams} conflict: a search returns at most its beams")
        if self.accuracy and self.k < LEAST_ACCURACY_K:
            raise ConfigError(f"-k {self.k} and accuracy conflict: HR@10 needs -k 10 or more, or add --no-accuracy")
        if not self.speed and not self.accuracy and self.stream_users is None:
            raise ConfigError(
                "--no-speed and --no-accuracy together leave nothing to measure: "
                "drop one of them, or add --stream-users"
            )
        if self.source_length is not None and not self.speed:
            raise ConfigError("--source-length and --no-speed conflict: only timed requests have a fixed length")

    @property
    def work_users(self) -> int | None:
        """Users that requests as they come are needed for; None: all."""
        timed = self.timed_users if self.speed and self.source_length is None else 0
        if not self.accuracy:
            return timed
        scored = self.scored_users
        return None if scored is None else max(scored, timed)

    @property
    def scored_users(self) -> int | None:
        """Users that accuracy is measured on; None: all."""
        limits = [limit for limit in (self.users, self.accuracy_users) if limit is not None]
        return min(limits, default=None)

    @property
    def timed_users(self) -> int:
        """Users that the speed runs go through."""
        return self.speed_users if self.users is None else min(self.users, self.speed_users)

    @property
    def thread_count(self) -> int:
        """Threads of every engine."""
        return self.threads or usable_cores()

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self) | {"tasks": None if self.tasks is None else [t.value for t in self.tasks]}


def _flag(name: str) -> str:
    return "-k" if name == "k" else "--" + name.replace("_", "-")
