"""How a catalogue's size tells: what is measured, on which synthetic catalogues, and the file of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog, IdTable
from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx_bench.harness.record_file import RecordFile

SCALE_FILE = "scale.json"
_FILE = RecordFile(SCALE_FILE, "podx-scale", 1, "podx bench-scale")
CODES, LEVELS = 256, 4
"""A synthetic item is four codes, one from each of four books of 256, as semantic ids are."""
FIRST_CODE_TOKEN = 3
"""The tokens before it are T5's pad, end of sequence and unknown."""
VOCABULARY_NEEDED = FIRST_CODE_TOKEN + LEVELS * CODES
_SPARE = 1.01
"""Draws per item wanted: some codes are drawn twice."""
_FIRST_RAW_ID = 10**9
"""Raw ids have ten characters, as Amazon's have."""
CPU_PRECISIONS = ("fp32", "int8")
LEAST_ITEMS, _MOST_ITEMS = 2, 10**8


@dataclass(frozen=True)
class ScaleOptions:
    """Options of a run.

    Attributes:
        items: sizes of the catalogues; ratios are against the smallest.
        batch: users of a call. source: tokens of each user's input. excluded: items that each user must not get back.
        beams, k: width of the search, answers wanted.
        rounds: turns of each catalogue, one after another. calls: of each turn.
        threads: threads inside an operator; 0 = one per core.
        seed: of the catalogues, the inputs and the log-probabilities.
        precision: of the graph that is timed, fp32 or int8.
    """

    items: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7)
    batch: int = 32
    source: int = 41
    excluded: int = 10
    beams: int = DEFAULT_BEAMS
    k: int = 10
    rounds: int = 5
    calls: int = 3
    threads: int = 0
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in CPU_PRECISIONS:
            raise ConfigError(f"--precision must be one of {', '.join(CPU_PRECISIONS)}, not {self.precision!r}")
        if not self.items or min(self.items) < LEAST_ITEMS or max(self.items) > _MOST_ITEMS:
            raise ConfigError(f"--items must be between {LEAST_ITEMS} and {_MOST_ITEMS:.0e}, not {self.items}")
        if self.threads < 0:
            raise ConfigError(f"--threads must be 0 (one per core) or more, not {self.threads}")
        for name in ("batch", "source", "beams", "k", "rounds", "calls"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.excluded < 0 or self.excluded > min(self.items):
            raise ConfigError(f"excluded must be between 0 and the smallest catalogue, not {self.excluded}")


@dataclass(frozen=True)
class ScaleRecord:
    """What a catalogue costs. The graph's figures are None where no checkpoint was given.

    Attributes:
        nodes: of the trie.
        build_s: sorting raw ids and tokens, making the trie. write_s: to the disk, checksums included.
        build_peak_mb: most memory of the process that does both.
        disk_mb: size of the catalogue file.
        load_s: in a fresh process: checksum of every file, catalogue, and with a checkpoint the graph, to the first
            answer. verify_s: the checksums alone, after loading.
        start_mb: resident memory before loading; loaded_mb: after it; used_mb: after all timed calls.
        peak_mb: the most that was ever resident.
        search_ms: the trie part of one decoding step, on the CPU: the step graphs' search over given log-probabilities.
        call_ms: the recommender graph, one call. encoder_ms: the encoder graph alone on the same inputs.
        step_ms: what the call takes beyond the encoder, per decoding step.
        search_ratio, call_ratio, step_ratio: against the smallest catalogue in the same round, median of the rounds.
    """

    items: int
    nodes: int
    build_s: float
    write_s: float
    build_peak_mb: float
    disk_mb: float
    load_s: float
    verify_s: float
    start_mb: float
    loaded_mb: float
    used_mb: float
    peak_mb: float
    search_ms: float
    search_ratio: float
    call_ms: float | None = None
    call_ratio: float | None = None
    encoder_ms: float | None = None
    step_ms: float | None = None
    step_ratio: float | None = None


@dataclass(frozen=True)
class ScaleResults:
    """A run: where it was made, what was asked for and what was found. ``model``: the checkpoint's shape, or empty."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    records: tuple[ScaleRecord, ...]

    def save(self, folder: Path) -> Path:
        """Write ``scale.json`` under a temporary name and rename it; returns its path."""
        return _FILE.write(folder, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> ScaleResults:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, is no such file, or has another format version.
        """
        content = _FILE.read(path)
        try:
            records = tuple(ScaleRecord(**record) for record in content.pop("records"))
            return cls(**content, records=records)
        except (KeyError, TypeError) as error:
            raise _FILE.damaged(path, error) from error


def synthetic_items(count: int, seed: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int32]]:
    """Raw ids bytes [count] and tokens int32 [count, LEVELS] of distinct items, both in random order.

    Raises:
        ConfigError: there are not so many combinations of codes.
    """
    if count > CODES**LEVELS:
        raise ConfigError(f"there are only {CODES**LEVELS:,} items of {LEVELS} codes: ask for fewer than {count:,}")
    rng = np.random.default_rng([seed, count])
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:
        more = rng.integers(0, CODES**LEVELS, size=int(count * _SPARE) + 1 - len(drawn))
        drawn = np.unique(np.concatenate([drawn, more]))
    packed = rng.permutation(drawn)[:count]
    tokens = np.empty((count, LEVELS), dtype=np.int32)
    for level in range(LEVELS):
        code = (packed // CODES ** (LEVELS - 1 - level)) % CODES
        tokens[:, level] = FIRST_CODE_TOKEN + level * CODES + code
    return (_FIRST_RAW_ID + rng.permutation(count)).astype(f"S{len(str(_FIRST_RAW_ID))}"), tokens


def make_catalog(raw_ids: npt.NDArray[np.bytes_], tokens: npt.NDArray[np.int32], end_token: int) -> Catalog:
    """A catalogue of items whose tokens are given, all of them listed."""
    count, length = tokens.shape
    offsets = np.arange(0, count * length + 1, length, dtype=np.int64)
    listed = np.ones(count, dtype=np.bool_)
    return Catalog(IdTable(raw_ids, "item"), tokens.ravel(), offsets, listed, end_token)
