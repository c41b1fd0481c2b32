"""What ``podx bench accuracy`` may be asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from podx.errors import ConfigError
from podx.flags import option
from podx.text.templates import ALL_TASKS, Task
from podx_bench.harness.options import LEAST_ACCURACY_K, EngineOptions

MODEL_FORM = "LABEL=BUNDLE@DATA"
PEER_FORM = "FILE.json@DATA"


class ModelInput(NamedTuple):
    """A bundle to be measured on a dataset folder, under a label."""

    label: str
    bundle: Path
    data: Path


class PeerInput(NamedTuple):
    """A file with a peer's lists, and the dataset folder they are about."""

    file: Path
    data: Path


def parse_model(text: str) -> ModelInput:
    """A model argument; the dataset follows the last ``@``. Raises ConfigError where a part is missing."""
    match = re.fullmatch(r"([^=]*[^=\s])\s*=(.+)@([^@]+)", text.strip())
    if not match:
        raise ConfigError(f"a model is given as {MODEL_FORM}, as in POD=bundle@data, not {text!r}")
    return ModelInput(match[1], Path(match[2]), Path(match[3]))


def parse_peer(text: str) -> PeerInput:
    """A ``--peer`` argument; the dataset follows the last ``@``. Raises ConfigError where a part is missing."""
    file, _, data = text.rpartition("@")
    if not (file and data):
        raise ConfigError(f"--peer takes {PEER_FORM}, as in sasrec.json@data, not {text!r}")
    return PeerInput(Path(file), Path(data))


def slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", label).strip("-.") or "model"


@dataclass(frozen=True)
class AccuracyOptions(EngineOptions):
    """Options of a run. Users are always the first ones of one seeded order."""

    users: int | None = option(None, "Test users, sequential recommendation; default: all.", least=1)
    topn_users: int | None = option(None, "Test users, top-N; default: all.", least=1)
    explanation_records: int | None = option(None, "Test records, explanations; default: all.", least=1)
    unconstrained_users: int = option(
        256, "Users whose lists are also searched for over the whole vocabulary, which is slow.", least=0
    )
    batch_size: int = option(32, "Requests a model runs at a time.", least=1)
    timed_users: int = option(192, "Users that all models are timed on, in turns; 0: none.", least=0)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        super().__post_init__()
        if self.beams < LEAST_ACCURACY_K:
            raise ConfigError(f"--beams {self.beams} is too few: HR@10 needs {LEAST_ACCURACY_K} answers or more")

    def limit(self, task: Task) -> int | None:
        """The most users (explanations: records) of a task; None: all."""
        limits = (self.users, self.topn_users, self.explanation_records)
        return dict(zip(ALL_TASKS, limits, strict=True))[task]

    def measuring(self) -> dict[str, Any]:
        """What a measurement depends on beside model, data, task and number of users."""
        return {**self.engine, "batch_size": self.batch_size, "k": LEAST_ACCURACY_K, "user_order_seed": self.seed}
