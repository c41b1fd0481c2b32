"""What is measured of large catalogs, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from podx.decoding.options import DEFAULT_BEAMS
from podx.flags import option
from podx_bench.harness.options import DEFAULT_K, BaseOptions, parse_numbers
from podx_bench.harness.record_file import RecordFile

EXCLUDED = 10
"""Items that each user must not get back."""


@dataclass(frozen=True)
class ScaleOptions(BaseOptions):
    """Options of a run. Ratios are against the smallest catalog."""

    items: tuple[int, ...] = option(
        (10**4, 10**5, 10**6, 10**7),
        "Sizes of the synthetic catalogs.",
        parse=partial(parse_numbers, flag="--items"),
        least=EXCLUDED,
        most=10**8,
    )
    batch: int = option(32, "Users of a call.", flag="--batch-size", least=1)
    source: int = option(41, "Tokens of an input.", flag="--source-length", least=1)
    beams: int = option(DEFAULT_BEAMS, "Width of the item search.", least=1)
    k: int = option(DEFAULT_K, "Answers per user.", flag="-k,--count", least=1)
    rounds: int = option(5, "Turns of each catalog, one after another.", least=1)
    calls: int = option(3, "Calls of a turn.", least=1)
    seed: int = option(0, "Of catalogs and inputs.")
    precision: str = option("fp32", "Of the graph: fp32 or int8.", choices=("fp32", "int8"))


@dataclass(frozen=True)
class ScaleRecord:
    """What a catalog costs. The graph's figures are None where no checkpoint was given.

    Attributes:
        build_s: sorting raw ids and tokens, making the trie. write_s: to the disk, checksums included.
        disk_mb: size of the catalog file.
        load_s: in a fresh process: checksum of every file, catalog, and with a checkpoint the graph, to the first
            answer. loaded_mb: resident memory then; peak_mb: the most that was ever resident.
        call_ms: the recommender graph, one call. step_ms: what it takes beyond the encoder, per decoding step.
        call_ratio, step_ratio: against the smallest catalog in the same round, median of the rounds.
        search_ms, search_ratio: of older runs: the trie part of a step, see ``bench/studies/trie_search.py``.
    """

    items: int
    build_s: float
    write_s: float
    disk_mb: float
    load_s: float
    loaded_mb: float
    peak_mb: float
    search_ms: float | None = None
    search_ratio: float | None = None
    call_ms: float | None = None
    call_ratio: float | None = None
    step_ms: float | None = None
    step_ratio: float | None = None


@dataclass(frozen=True)
class ScaleResults:
    """A run: where it was made, what was asked for and measured. ``model``: the checkpoint's shape, or empty."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    records: tuple[ScaleRecord, ...]


SCALE_FILE = RecordFile("scale.json", "podx-scale", 1, "podx bench scale", ScaleResults)
