"""What ``podx study`` may be asked to do. Frozen, and verified where it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from podx.errors import ConfigError
from podx_bench.accuracy_report.options import DEFAULT_BATCH_SIZE, DEFAULT_ROUNDS, DEFAULT_TIMED_USERS, StudyOptions
from podx_bench.harness.options import DEVICES, usable_cores

CPU = "cpu"
SECONDS = 60.0


@dataclass(frozen=True)
class RunOptions:
    """How the runs of a sweep are made.

    Attributes:
        minutes_per_run: the most that one training takes; None: as long as podx train is asked to.
        budget_minutes: after this long no training is begun or goes on; measuring comes on top. None: no limit.
        jobs: trainings at a time. With ``cuda`` each has a GPU of its own, on a CPU its share of the threads.
        device: ``cpu`` or ``cuda``, of training and measuring. threads: in all; 0: one per usable core.
        users, topn_users, explanation_records: what accuracy is measured on; None: all.
        batch_size, timed_users, rounds: of the times per user. seed: which users come first.
    """

    minutes_per_run: float | None = None
    budget_minutes: float | None = None
    jobs: int = 1
    device: str = CPU
    threads: int = 0
    users: int | None = None
    topn_users: int | None = None
    explanation_records: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    timed_users: int = DEFAULT_TIMED_USERS
    rounds: int = DEFAULT_ROUNDS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("minutes_per_run", "budget_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above zero, not {value}")
        if self.jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, not {self.jobs}")
        if self.device not in DEVICES:
            raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, not {self.device!r}")
        _ = self.measuring(timed=True)  # checks the rest

    @property
    def thread_count(self) -> int:
        """Threads of all trainings together."""
        return self.threads or usable_cores()

    @property
    def training_threads(self) -> int:
        """Threads of one training."""
        return max(1, self.thread_count // self.jobs)

    def measuring(self, timed: bool) -> StudyOptions:
        """How a bundle is measured. ``timed``: take the times of all bundles in turns, too."""
        return StudyOptions(
            users=self.users,
            topn_users=self.topn_users,
            explanation_records=self.explanation_records,
            unconstrained_users=0,
            device=self.device,
            threads=self.threads,
            batch_size=self.batch_size,
            seed=self.seed,
            timed_users=self.timed_users if timed else 0,
            rounds=self.rounds,
        )

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class BatchingOptions:
    """How the two ways of forming batches are compared.

    Attributes:
        memory_gb: the most memory (10^9 bytes) that training may take: of the whole process on a CPU, of its tensors
            on a GPU.
        closeness: the largest batch size is found to within this share of itself.
        updates: updates whose time is taken, in each of ``rounds`` turns of both ways.
        full_epoch: take the time of a whole epoch instead, once.
        budget_minutes: after this long nothing more is measured; None: no limit.
        device: ``cpu`` or ``cuda``. threads: 0: one per usable core.
    """

    memory_gb: float
    closeness: float = 0.05
    updates: int = 20
    rounds: int = 3
    full_epoch: bool = False
    budget_minutes: float | None = None
    device: str = CPU
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("memory_gb", "closeness", "budget_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above zero, not {value}")
        for name in ("updates", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.device not in DEVICES:
            raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.threads < 0:
            raise ConfigError(f"--threads must not be negative, not {self.threads}")

    @property
    def thread_count(self) -> int:
        """Threads of a measured process."""
        return self.threads or usable_cores()

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self)
