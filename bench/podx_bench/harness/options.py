"""What the options of several benches share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx.flags import check, option
from podx.text.templates import Task, parse_tasks

DEVICES = ("cpu", "cuda")
DEFAULT_K = 10
LEAST_ACCURACY_K = 10
"""HR@10 and NDCG@10 need ten places."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def parse_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Ascending numbers from a comma-separated list, each once.

    Raises:
        ConfigError: a part is no whole number, or there is none.
    """
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
        if not numbers or not all(number >= 0 and number.is_integer() for number in numbers):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{flag} must be whole numbers separated by commas, as in 1,32 or 1e4, not {text!r}"
        ) from None
    return tuple(sorted(map(int, set(numbers))))


@dataclass(frozen=True)
class BaseOptions:
    """Options that every bench has."""

    threads: int = option(0, "Threads inside an operator; 0 = one per core.", least=0)
    seed: int = option(0, "Which users are taken.", least=0)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check(self)

    @property
    def thread_count(self) -> int:
        """Threads of every engine."""
        return self.threads or usable_cores()


@dataclass(frozen=True)
class EngineOptions(BaseOptions):
    """Options of the benches that run engines in processes of their own."""

    tasks: tuple[Task, ...] | None = option(
        None, "Comma-separated: sequential,topn,explanation. Default: all there are.", parse=parse_tasks
    )
    device: str = option("cpu", "cpu or cuda.", choices=DEVICES)
    beams: int = option(DEFAULT_BEAMS, "Width of the item search.", least=1)
    rounds: int = option(3, "Turns of every engine or model.", least=1)

    @property
    def engine(self) -> dict[str, Any]:
        """What every engine is made with."""
        return {"device": self.device, "threads": self.thread_count, "beams": self.beams}
