"""The processes that ``podx bench scale`` measures. Nothing but the runtime is loaded to serve a catalog."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.catalog import Catalog
from podx.bundle.manifest import file_sha256
from podx.decoding.item_filter import ItemFilter
from podx.decoding.items import ItemSearch, TokenColumns
from podx.decoding.options import ItemSearchOptions
from podx.decoding.stepper import FloatArray, IntArray
from podx.graphs.session import GraphSession, SessionOptions
from podx_bench.harness.memory import MEGABYTE, peak_rss_mb, resident_mb
from podx_bench.scale.catalogs import (
    END_TOKEN,
    FIRST_CODE_TOKEN,
    LEVELS,
    START_TOKEN,
    VOCABULARY_NEEDED,
    make_catalog,
    synthetic_items,
)
from podx_bench.scale.records import ScaleOptions

MILLISECONDS = 1e3
STEPS = LEVELS + 1
"""Of decoding, end of sequence included."""
LOOKED_UP = 1000
"""Raw ids that are looked up after loading, so that the tables are not just mapped."""


def build(items: int, folder: Path, base: Path | None, options: ScaleOptions) -> dict[str, Any]:
    """Make a catalog, or a bundle that is ``base`` with that catalog, in ``folder``."""
    raw_ids, tokens = synthetic_items(items, options.seed)
    start = time.perf_counter()
    catalog = make_catalog(raw_ids, tokens, END_TOKEN)
    nodes = catalog.trie.node_count
    build_s = time.perf_counter() - start
    start = time.perf_counter()
    if base is None:
        folder.mkdir()
        catalog.save(folder / CATALOG_FILE)
    else:
        from podx_export.catalog.update import put_catalog  # brings onnx

        put_catalog(Bundle.load(base), folder, catalog)
    write_s = time.perf_counter() - start
    disk_mb = (folder / CATALOG_FILE).stat().st_size / MEGABYTE
    return {"nodes": nodes, "build_s": build_s, "write_s": write_s, "build_peak_mb": peak_rss_mb(), "disk_mb": disk_mb}


class _GivenSteps:
    """A stepper whose log-probabilities were drawn beforehand, [batch, beams, tokens] for each step."""

    def __init__(self, log_probs: list[FloatArray]) -> None:
        self._left = log_probs

    def step(self, tokens: IntArray, distance: IntArray) -> FloatArray:
        """The next of them, for the live beams."""
        first, *self._left = self._left
        return first[:, : tokens.shape[1]]

    def keep(self, users: IntArray) -> None:
        """Go on with some users only."""
        self._left = [log_probs[users] for log_probs in self._left]


class Server:
    """A loaded catalog, or bundle, and what is timed on it."""

    def __init__(self, folder: Path, has_graph: bool, options: ScaleOptions) -> None:
        self._folder, self._has_graph, self._options = folder, has_graph, options
        self._rng = np.random.default_rng(options.seed)
        self._recommender: podx.Recommender | None = None
        self._search: Callable[[], object] | None = None
        self._graphs: tuple[Callable[[], object], ...] | None = None

    def load(self) -> dict[str, Any]:
        """Load as a service does, to the first answer."""
        start_mb = resident_mb()
        start = time.perf_counter()
        catalog = self._load_bundle() if self._has_graph else self._load_catalog()
        load_s = time.perf_counter() - start
        loaded_mb = resident_mb()
        start = time.perf_counter()
        for path in sorted(self._folder.iterdir()):
            file_sha256(path)
        verify_s = time.perf_counter() - start
        self._catalog = catalog
        return {"load_s": load_s, "verify_s": verify_s, "start_mb": start_mb, "loaded_mb": loaded_mb}

    def _load_bundle(self) -> Catalog:
        self._recommender = podx.load(self._folder, device="cpu", threads=self._options.threads)
        bundle = self._recommender.bundle
        raw = bundle.catalog.items.raw
        self._recommender.recommend(bundle.users.ids.raw(1), history=[raw(1), raw(2)], k=self._options.k)
        return bundle.catalog

    def _load_catalog(self) -> Catalog:
        file_sha256(self._folder / CATALOG_FILE)
        catalog = Catalog.load(self._folder / CATALOG_FILE)
        numbers = self._rng.integers(1, len(catalog) + 1, size=LOOKED_UP)
        if [catalog.items.number(catalog.items.raw(number)) for number in numbers.tolist()] != numbers.tolist():
            raise AssertionError("a raw id leads to another number")
        catalog.trie.paths(numbers)
        return catalog

    def search(self) -> dict[str, list[float]]:
        """Time searches over given log-probabilities: ms of each step."""
        if self._search is None:
            self._search = self._prepared_search()
            self._search()
        return {"search_ms": [ms / STEPS for ms in self._times(self._search)]}

    def _prepared_search(self) -> Callable[[], object]:
        options, trie = self._options, self._catalog.trie
        columns = TokenColumns.of_catalog(trie, END_TOKEN)
        tokens = 0 if columns.output_tokens is None else len(columns.output_tokens)
        shape = (options.batch, options.beams, tokens)
        drawn = [self._rng.standard_normal(shape, dtype=np.float32) for _ in range(STEPS)]
        steps = [d - np.log(np.exp(d).sum(axis=-1, keepdims=True)) for d in drawn]
        denied = self._some_items()
        allowed = [None] * options.batch
        search = ItemSearchOptions(beams=options.beams)

        def run() -> object:
            limits = ItemFilter(trie, list(denied), allowed)
            return ItemSearch(_GivenSteps(steps), trie, columns, limits, search, START_TOKEN, options.k).run()

        return run

    def graph(self) -> dict[str, list[float]]:
        """Time the recommender graph and, on the same inputs, the encoder alone: ms of each call, and of a step."""
        if self._graphs is None:
            self._recommender = None  # its graph makes room for the one that is timed
            self._graphs = self._prepared_graphs()
            for run in self._graphs:
                run()
        whole, encoder = self._graphs
        calls, encoders = self._times(whole), self._times(encoder)
        step = (median(calls) - median(encoders)) / STEPS
        return {"call_ms": calls, "encoder_ms": encoders, "step_ms": [step]}

    def _prepared_graphs(self) -> tuple[Callable[[], object], Callable[[], object]]:
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
            sig.EXCLUDED_ITEMS: self._some_items(),
            sig.ALLOWED_ITEMS: np.zeros((options.batch, 0), dtype=np.int64),
            sig.BEAMS: np.array([options.beams]),
            sig.K: np.array([options.k]),
        }
        sessions = SessionOptions(threads=options.threads)
        whole = GraphSession(self._folder / sig.RECOMMEND_FILE, sessions)
        encoder = GraphSession(self._folder / sig.ENCODER_FILE, sessions)
        return (
            lambda: whole.run({**text, **limits}, to_host=[sig.ITEMS, sig.SCORES, sig.EXACT]),
            lambda: encoder.run(text, to_host=()),
        )

    def _some_items(self) -> IntArray:
        return self._rng.integers(1, len(self._catalog) + 1, size=(self._options.batch, self._options.excluded))

    def _times(self, run: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(self._options.calls):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * MILLISECONDS)
        return times

    def memory(self) -> dict[str, Any]:
        """Resident memory now and at most."""
        gc.collect()
        return {"used_mb": resident_mb(), "peak_mb": peak_rss_mb()}
