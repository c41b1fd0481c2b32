"""The processes that ``podx bench scale`` measures, and the synthetic catalogs that they build and serve.

An item has four codes, one from each of four books of 256, as semantic ids have. Nothing but the runtime is loaded to
serve a catalog.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.catalog import Catalog, IdTable
from podx.bundle.manifest import file_sha256
from podx.errors import ConfigError
from podx.graphs.session import GraphSession, SessionOptions
from podx_bench.harness.resources import MEGABYTE, peak_rss_mb, resident_mb, timed
from podx_bench.scale.records import EXCLUDED, ScaleOptions

CODES, LEVELS = 256, 4
STEPS = LEVELS + 1
"""Of decoding, end of sequence included."""
END_TOKEN = 1
FIRST_CODE_TOKEN = 3
"""The tokens before it are T5's pad, end of sequence and unknown."""
VOCABULARY_NEEDED = FIRST_CODE_TOKEN + LEVELS * CODES

Action = Callable[[], object]


def synthetic_items(count: int, seed: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int32]]:
    """Raw ids bytes [count] and tokens int32 [count, LEVELS] of distinct items, both in random order.

    Raises:
        ConfigError: there are not so many combinations of codes.
    """
    if count > CODES**LEVELS:
        raise ConfigError(f"there are only {CODES**LEVELS:,} items of {LEVELS} codes: ask for fewer than {count:,}")
    rng = np.random.default_rng([seed, count])
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:  # one per cent more than wanted, as some codes are drawn twice
        more = rng.integers(0, CODES**LEVELS, size=int(count * 1.01) + 1 - len(drawn))
        drawn = np.unique(np.concatenate([drawn, more]))
    packed = rng.permutation(drawn)[:count]
    tokens = np.empty((count, LEVELS), dtype=np.int32)
    for level in range(LEVELS):
        tokens[:, level] = FIRST_CODE_TOKEN + level * CODES + packed // CODES ** (LEVELS - 1 - level) % CODES
    return (10**9 + rng.permutation(count)).astype("S10"), tokens  # ten characters, as Amazon's ids have


def make_catalog(raw_ids: npt.NDArray[np.bytes_], tokens: npt.NDArray[np.int32], end_token: int) -> Catalog:
    """A catalog of items whose tokens are given, all of them listed."""
    count, length = tokens.shape
    offsets = np.arange(0, count * length + 1, length, dtype=np.int64)
    return Catalog(IdTable(raw_ids, "item"), tokens.ravel(), offsets, np.ones(count, dtype=np.bool_), end_token)


def build(items: int, folder: Path, base: Path | None, options: ScaleOptions) -> dict[str, float]:
    """Make a catalog, or a bundle that is ``base`` with that catalog, in ``folder``."""
    raw_ids, tokens = synthetic_items(items, options.seed)
    start = time.perf_counter()
    catalog = make_catalog(raw_ids, tokens, END_TOKEN)
    catalog.trie.node_count  # noqa: B018 - makes the trie
    built = time.perf_counter()
    if base is None:
        folder.mkdir()
        catalog.save(folder / CATALOG_FILE)
    else:
        from podx_export.catalog.update import put_catalog  # brings onnx

        put_catalog(Bundle.load(base), folder, catalog)
    written = time.perf_counter()
    disk_mb = (folder / CATALOG_FILE).stat().st_size / MEGABYTE
    return {"build_s": built - start, "write_s": written - built, "disk_mb": disk_mb}


class Server:
    """A loaded catalog, or bundle, of which the graph is timed."""

    def __init__(self, folder: Path, has_graph: bool, options: ScaleOptions) -> None:
        self._folder, self._has_graph, self._options = folder, has_graph, options
        self._rng = np.random.default_rng(options.seed)

    def load(self) -> dict[str, float]:
        """Load as a service does, to the first answer."""
        start = time.perf_counter()
        if self._has_graph:
            recommender = podx.load(self._folder, "cpu", self._options.threads, tasks=["sequential"])
            self._catalog, users = recommender.bundle.catalog, recommender.bundle.users
            raw = self._catalog.items.raw
            recommender.recommend(users.ids.raw(1), history=[raw(1), raw(2)], k=self._options.k)
        else:
            file_sha256(self._folder / CATALOG_FILE)
            self._catalog = Catalog.load(self._folder / CATALOG_FILE)
            # tables that are only mapped take no memory yet: look up some
            numbers = self._rng.integers(1, len(self._catalog) + 1, size=1000)
            for number in numbers.tolist():
                self._catalog.items.number(self._catalog.items.raw(number))
            self._catalog.trie.paths(numbers)
        return {"load_s": time.perf_counter() - start, "loaded_mb": resident_mb()}

    def time(self) -> dict[str, float]:
        """Milliseconds of a call of the graph, and of a decoding step."""
        call, encoder = (median(timed(run)[1] for _ in range(self._options.calls)) for run in self._graphs)
        return {"call_ms": call, "step_ms": step_ms(call, encoder)}

    @cached_property
    def _graphs(self) -> tuple[Action, Action]:
        options = self._options
        shape = (options.batch, options.source)
        same_for_all = np.random.default_rng(options.seed)
        text = {
            sig.INPUT_IDS: same_for_all.integers(FIRST_CODE_TOKEN, VOCABULARY_NEEDED, size=shape),
            sig.WHOLE_WORD_IDS: np.tile(np.arange(options.source) % 2, (options.batch, 1)),
            sig.ATTENTION_MASK: np.ones(shape, dtype=np.int64),
            sig.TASK_ID: np.zeros(options.batch, dtype=np.int64),
        }
        limits = {
            sig.EXCLUDED_ITEMS: self._rng.integers(1, len(self._catalog) + 1, size=(options.batch, EXCLUDED)),
            sig.ALLOWED_ITEMS: np.zeros((options.batch, 0), dtype=np.int64),
            sig.BEAMS: np.array([options.beams]),
            sig.K: np.array([options.k]),
        }
        sessions = SessionOptions(threads=options.threads)
        whole = GraphSession(self._folder / sig.RECOMMEND_FILE, sessions)
        encoder = GraphSession(self._folder / sig.ENCODER_FILE, sessions)
        call = partial(whole.run, {**text, **limits}, to_host=[sig.ITEMS, sig.SCORES, sig.EXACT])
        encode = partial(encoder.run, text, to_host=())
        call(), encode()
        return call, encode

    def memory(self) -> dict[str, float]:
        """Resident memory at most."""
        return {"peak_mb": peak_rss_mb()}


def step_ms(call_ms: float, encoder_ms: float) -> float:
    """What a call takes beyond the encoder, per decoding step."""
    return (call_ms - encoder_ms) / STEPS
