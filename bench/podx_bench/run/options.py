"""What a run of ``podx bench`` may be asked to do: declared once, with its flags, and verified where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from podx.errors import ConfigError
from podx.flags import option
from podx_bench.engines import DEFAULT_ENGINES, ENGINES
from podx_bench.harness.options import DEFAULT_K, LEAST_ACCURACY_K, EngineOptions, parse_numbers

DEFAULT_ACCURACY_USERS = 2_000
_ENGINES_HELP = f"Comma-separated: {', '.join(ENGINES)}; or module:attribute. Default: {','.join(DEFAULT_ENGINES)}."


def _parse_engines(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class BenchOptions(EngineOptions):
    """Options of a run; what each means stands beside it.

    The defaults take less than five minutes on two cores for a model of the preset ``mini`` on Beauty.
    ``spin`` makes engines a little faster on a machine with nothing else to do, and many times slower, PyTorch most of
    all, on one that has.

    Raises:
        ConfigError: a value cannot be meant, or two conflict.
    """

    batch_sizes: tuple[int, ...] = option(
        (1, 32), "Requests per timed call.", least=1, parse=partial(parse_numbers, flag="--batch-sizes")
    )
    engines: tuple[str, ...] | None = option(None, _ENGINES_HELP, parse=_parse_engines)
    users: int | None = option(None, "Test users that take part; default: all.", above=0)
    speed_users: int = option(32, "Of these, users that the timed runs go through.", least=1)
    accuracy_users: int | None = option(
        DEFAULT_ACCURACY_USERS, "Of these, the most users of the accuracy runs; 0: all of them.", least=0
    )
    eager_users: int = option(16, "The most users for accuracy of the slow engines.", least=1)
    k: int = option(DEFAULT_K, "Answers per request.", flag="-k,--count", least=1)
    spin: bool = option(False, "Let waiting threads of every engine spin.", flag="--spin/--no-spin")
    max_minutes: float | None = option(None, "Stop measuring after this long and report what there is.", above=0)
    speed: bool = option(True, "Measure latency.", flag="--speed/--no-speed")
    accuracy: bool = option(True, "Measure accuracy.", flag="--accuracy/--no-accuracy")
    source_length: int | None = option(
        None, "Time inputs of so many tokens, prompts not counted; default: as they come.", above=0
    )
    stream_users: int | None = option(
        None, "Users that each engine also gets in one call, in an order of its own.", above=0
    )
    stream_batch: int = option(32, "How many of them an engine runs at a time.", least=1)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        super().__post_init__()
        if self.k > self.beams:
            raise ConfigError(f"-k {self.k} and --beams {self.beams} conflict: a search returns at most its beams")
        if self.accuracy and self.k < LEAST_ACCURACY_K:
            raise ConfigError(f"-k {self.k} and accuracy conflict: HR@10 needs -k 10 or more, or add --no-accuracy")
        if not (self.speed or self.accuracy or self.stream_users):
            left = "leave nothing to measure: drop one of them, or add --stream-users"
            raise ConfigError(f"--no-speed and --no-accuracy together {left}")
        if self.source_length is not None and not self.speed:
            raise ConfigError("--source-length and --no-speed conflict: only timed requests have a fixed length")

    @property
    def work_users(self) -> int | None:
        """Users that requests as they come are needed for; None: all."""
        timed = self.timed_users if self.speed and self.source_length is None else 0
        scored = self.scored_users if self.accuracy else 0
        return None if scored is None else max(scored, timed)

    @property
    def scored_users(self) -> int | None:
        """The most users that accuracy is measured on; None: all."""
        return min(filter(None, (self.users, self.accuracy_users)), default=None)

    @property
    def timed_users(self) -> int:
        """Users that the speed runs go through."""
        return min(self.users or self.speed_users, self.speed_users)
