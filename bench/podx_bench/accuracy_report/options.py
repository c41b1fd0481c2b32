"""What ``podx bench accuracy`` may be asked to do. Frozen, and verified where it is made."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.harness.options import DEVICES, LEAST_ACCURACY_K, usable_cores

MODEL_FORM = "LABEL=BUNDLE@DATA"
PEER_FORM = "FILE.json@DATA"
DEFAULT_UNCONSTRAINED_USERS = 256
DEFAULT_BATCH_SIZE = 32
DEFAULT_TIMED_USERS, DEFAULT_ROUNDS = 192, 3
_NOT_IN_A_FILE_NAME = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class ModelInput:
    """A bundle to be measured on a dataset folder, under a label."""

    label: str
    bundle: Path
    data: Path


@dataclass(frozen=True)
class PeerInput:
    """A file with a peer's lists, and the dataset folder they are about."""

    file: Path
    data: Path


def parse_model(text: str) -> ModelInput:
    """A model argument; the dataset follows the last ``@``.

    Raises:
        ConfigError: a part is missing.
    """
    label, equals, rest = text.partition("=")
    bundle, at, data = rest.rpartition("@")
    if not (equals and at and label.strip() and bundle and data):
        raise ConfigError(f"a model is given as {MODEL_FORM}, as in POD=bundle@data, not {text!r}")
    return ModelInput(label.strip(), Path(bundle), Path(data))


def parse_peer(text: str) -> PeerInput:
    """A ``--peer`` argument; the dataset follows the last ``@``.

    Raises:
        ConfigError: a part is missing.
    """
    file, _, data = text.rpartition("@")
    if not (file and data):
        raise ConfigError(f"--peer takes {PEER_FORM}, as in sasrec.json@data, not {text!r}")
    return PeerInput(Path(file), Path(data))


def parse_models(texts: Sequence[str]) -> tuple[ModelInput, ...]:
    """All model arguments.

    Raises:
        ConfigError: a part is missing, or a bundle is given twice under one label.
    """
    models = tuple(parse_model(text) for text in texts)
    for place, model in enumerate(models):
        if model in models[:place]:
            raise ConfigError(f"{model.label}={model.bundle} is given twice: the same bundle is not another seed")
    return models


def slug(label: str) -> str:
    """A label as part of a file name."""
    return _NOT_IN_A_FILE_NAME.sub("-", label).strip("-.") or "model"


@dataclass(frozen=True)
class StudyOptions:
    """Options of a run.

    Attributes:
        tasks: None: all that a model has and its dataset has test records for.
        users: test users of sequential recommendation; None: all. Always the first ones of one seeded order.
        topn_users: likewise for top-N. explanation_records: test records of explanations.
        unconstrained_users: users whose lists are also searched for over the whole vocabulary; 0: nobody's.
        device: ``cpu`` or ``cuda``. threads: of a model's process; 0: one per usable core.
        batch_size: requests that a model runs at a time.
        beams: width of the item search. seed: which users come first.
        timed_users: users that all models are timed on in turns; 0: none. rounds: turns of each.
    """

    tasks: tuple[Task, ...] | None = None
    users: int | None = None
    topn_users: int | None = None
    explanation_records: int | None = None
    unconstrained_users: int = DEFAULT_UNCONSTRAINED_USERS
    device: str = "cpu"
    threads: int = 0
    batch_size: int = DEFAULT_BATCH_SIZE
    beams: int = DEFAULT_BEAMS
    seed: int = 0
    timed_users: int = DEFAULT_TIMED_USERS
    rounds: int = DEFAULT_ROUNDS

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("users", "topn_users", "explanation_records", "batch_size", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for name in ("unconstrained_users", "threads", "seed", "timed_users"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name.replace('_', '-')} must not be negative")
        if self.beams < LEAST_ACCURACY_K:
            raise ConfigError(f"--beams {self.beams} is too few: HR@10 needs {LEAST_ACCURACY_K} answers or more")
        if self.device not in DEVICES:
            raise ConfigError(f"--device must be one of {', '.join(DEVICES)}, not {self.device!r}")

    @property
    def thread_count(self) -> int:
        """Threads of a model's process."""
        return self.threads or usable_cores()

    def limit(self, task: Task) -> int | None:
        """The most users (explanations: records) of a task; None: all."""
        limits = {
            Task.SEQUENTIAL: self.users,
            Task.TOPN: self.topn_users,
            Task.EXPLANATION: self.explanation_records,
        }
        return limits[task]

    def measuring(self) -> dict[str, Any]:
        """What a measurement depends on beside model, data, task and number of users."""
        return {
            "device": self.device,
            "threads": self.thread_count,
            "batch_size": self.batch_size,
            "beams": self.beams,
            "k": LEAST_ACCURACY_K,
            "user_order_seed": self.seed,
        }

    def timing(self) -> dict[str, int]:
        """What the times depend on beside that."""
        return {"timed_users": self.timed_users, "rounds": self.rounds}

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        tasks = None if self.tasks is None else [task.value for task in self.tasks]
        return dataclasses.asdict(self) | {"tasks": tasks}
