"""What ``podx study batching`` measured, and the file it is kept in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from podx_bench.harness.record_file import RecordFile
from podx_bench.study.record import COMMAND, STUDY_FILE

ALTERNATED, MIXED = "alternated", "mixed"
STRATEGIES = (MIXED, ALTERNATED)
_FILE = RecordFile(STUDY_FILE, "podx-study-batching", 1, COMMAND)


@dataclass(frozen=True)
class StrategyRecord:
    """A way to form batches.

    Attributes:
        batch_size: the largest that was found to fit, None: none. peak_mb: what it took. too_large: the smallest that
            was found not to fit.
        probes: all batch sizes that were measured, with their peak memory in MB; None: it ran out of memory.
        rounds: what each timed turn gave: ``seconds``, ``updates``, ``records``, ``pads``, ``tokens``,
            ``updates_per_epoch``, ``records_per_epoch``, ``peak_mb``.
    """

    name: str
    batch_size: int | None
    peak_mb: float | None
    too_large: int | None
    probes: tuple[tuple[int, float | None], ...]
    rounds: tuple[Mapping[str, Any], ...]

    def epoch_seconds(self) -> list[float]:
        """Time of an epoch by each round: seconds per update times the updates of an epoch."""
        return [one["seconds"] / one["updates"] * one["updates_per_epoch"] for one in self.rounds]

    def record_seconds(self) -> list[float]:
        """Time of a record by each round."""
        return [one["seconds"] / one["records"] for one in self.rounds]

    def padding_share(self) -> float | None:
        """Share of pads among all tokens of inputs and targets, over all rounds."""
        tokens = sum(one["tokens"] for one in self.rounds)
        return sum(one["pads"] for one in self.rounds) / tokens if tokens else None

    def of_epoch(self, name: str) -> int | None:
        """``updates_per_epoch`` or ``records_per_epoch``; None: not known."""
        return int(self.rounds[0][name]) if self.rounds else None


@dataclass(frozen=True)
class BatchingResults:
    """Both strategies. ``extra``: options of podx train that a user added."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    extra: tuple[str, ...]
    dataset: Mapping[str, Any]
    strategies: tuple[StrategyRecord, ...]
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write ``study.json`` under a temporary name and rename it; returns its path."""
        return _FILE.write(folder, dataclasses.asdict(self))

    def of(self, name: str) -> StrategyRecord:
        """The strategy of a name."""
        return next(one for one in self.strategies if one.name == name)

    def ratio(self, seconds: str = "epoch_seconds") -> float | None:
        """How many times as long sample-mixed training takes, median of the rounds of both; None: not measured.

        Args:
            seconds: ``epoch_seconds``, or ``record_seconds``.
        """
        times: list[Sequence[float]] = [getattr(self.of(name), seconds)() for name in (MIXED, ALTERNATED)]
        pairs = list(zip(*times, strict=False))
        return median(mixed / alternated for mixed, alternated in pairs) if pairs else None

    @classmethod
    def load(cls, path: Path) -> BatchingResults:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, is no such file, or has another format version.
        """
        content = _FILE.read(path)
        try:
            strategies = tuple(_strategy(one) for one in content.pop("strategies"))
            lists = {name: tuple(content.pop(name)) for name in ("extra", "notes")}
            return cls(**content, **lists, strategies=strategies)
        except (KeyError, TypeError) as error:
            raise _FILE.damaged(path, error) from error


def _strategy(content: Mapping[str, Any]) -> StrategyRecord:
    probes = tuple((size, peak) for size, peak in content["probes"])
    return StrategyRecord(**{**content, "probes": probes, "rounds": tuple(content["rounds"])})
