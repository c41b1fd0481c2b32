"""What the trie part of a decoding step costs against the size of the catalog: the step graphs' search, in numpy.

    python bench/studies/trie_search.py [--items 1e4,1e5,1e6,1e7] [--batch-size 32] [--beams 20]

The search of the step graphs runs over log-probabilities that were drawn beforehand, on the synthetic catalogs of
``podx bench scale``. Catalogs take turns, and ratios are against the smallest one in the same round. Whole calls of the
recommender graph, with the model, are what ``podx bench scale --checkpoint`` times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import truediv
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from podx.bundle.catalog import Catalog
from podx.decoding.item_filter import ItemFilter
from podx.decoding.items import ItemSearch, TokenColumns
from podx.decoding.options import ItemSearchOptions
from podx.decoding.stepper import FloatArray, IntArray
from podx.flags import with_flags
from podx_bench.harness.resources import timed
from podx_bench.harness.terminal import run_command
from podx_bench.pages.render import rich_table
from podx_bench.pages.table import TextTable, short
from podx_bench.scale.records import EXCLUDED, ScaleOptions
from podx_bench.scale.server import END_TOKEN, STEPS, make_catalog, synthetic_items

START_TOKEN = 0


class GivenSteps:
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


def search_of(catalog: Catalog, options: ScaleOptions) -> Callable[[], object]:
    """A search over the catalog for a batch of users, each with some items left out; it has run once."""
    rng, trie = np.random.default_rng(options.seed), catalog.trie
    columns = TokenColumns.of_catalog(trie, END_TOKEN)
    tokens = 0 if columns.output_tokens is None else len(columns.output_tokens)
    shape = (options.batch, options.beams, tokens)
    drawn = [rng.standard_normal(shape, dtype=np.float32) for _ in range(STEPS)]
    steps = [d - np.log(np.exp(d).sum(axis=-1, keepdims=True)) for d in drawn]
    denied = rng.integers(1, len(catalog) + 1, size=(options.batch, EXCLUDED))
    search = ItemSearchOptions(beams=options.beams)

    def run() -> object:
        limits = ItemFilter(trie, list(denied), [None] * options.batch)
        return ItemSearch(GivenSteps(steps), trie, columns, limits, search, START_TOKEN, options.k).run()

    run()
    return run


def measure(options: ScaleOptions) -> dict[int, tuple[float, float]]:
    """Milliseconds of a step, and how many times as long as the smallest catalog's it is, by number of items."""
    searches = {}
    for items in sorted(options.items):
        searches[items] = search_of(make_catalog(*synthetic_items(items, options.seed), END_TOKEN), options)
    times: dict[int, list[float]] = {items: [] for items in searches}
    for turn in range(options.rounds):
        for items in sorted(searches, reverse=bool(turn % 2)):
            times[items].append(median(timed(searches[items])[1] for _ in range(options.calls)) / STEPS)
    smallest = times[min(times)]
    return {items: (median(ms), median(map(truediv, ms, smallest))) for items, ms in times.items()}


@with_flags(options=ScaleOptions)
def main(options: Mapping[str, Any]) -> None:
    """Time the trie part of a decoding step over synthetic catalogs."""
    asked = ScaleOptions(**options)
    rows = tuple((f"{items:,}", short(ms), f"{ratio:.2f}×") for items, (ms, ratio) in measure(asked).items())
    title = f"Trie part of a step, {asked.batch} users, {asked.beams} beams"
    Console().print(rich_table(TextTable(title, ("items", "ms", "×"), rows)))


if __name__ == "__main__":
    run_command(main)
