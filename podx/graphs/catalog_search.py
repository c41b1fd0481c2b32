"""Which graph searches the catalogue for a batch, and asking again until the answer is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.bundle.signature import RECOMMEND_FILE
from podx.decoding.item_filter import ItemLimits
from podx.decoding.items import FoundItems, ItemSearch, TokenColumns
from podx.decoding.options import MAX_RETRY_BEAMS, ItemSearchOptions
from podx.errors import ConfigError
from podx.graphs.model import GraphModel
from podx.text.inputs import Batch

SearchGraph = Literal["auto", "one", "steps"]
"""``one``: recommend.onnx does the whole search; ``steps``: encoder and decoder graphs, the search in numpy; ``auto``:
the one graph where it can do what is asked."""

LONG_LIST = 512
"""Items in one request's exclusions or allow list above which ``auto`` takes the step graphs: the one graph compares
all exclusions with one another and all allowed items with all beams."""

Numbers = npt.NDArray[np.int64]
Search = Callable[["ItemBatch", ItemSearchOptions], FoundItems]


@dataclass(frozen=True)
class ItemBatch:
    """Requests of one task whose items are to be searched for, by number.

    Attributes:
        text: the encoded inputs. task_id: number of their task in the graphs.
        denied: items never to be returned, per request; allowed: the only ones that may be, None: all.
        k: answers wanted, at most the number of items.
    """

    text: Batch
    task_id: int
    denied: Sequence[Numbers]
    allowed: Sequence[Numbers | None]
    k: int

    def rows(self, kept: Numbers) -> ItemBatch:
        """Some of the requests."""
        text = self.text.rows(kept)
        denied, allowed = [self.denied[row] for row in kept], [self.allowed[row] for row in kept]
        return ItemBatch(text, self.task_id, denied, allowed, self.k)

    @property
    def longest_list(self) -> int:
        """Items in the longest of the lists."""
        lists = [*self.denied, *(items for items in self.allowed if items is not None)]
        return max((len(items) for items in lists), default=0)


class CatalogueSearch:
    """Searches by one graph or by the step graphs.

    Raises:
        ConfigError: there is no such search graph.
    """

    def __init__(self, bundle: Bundle, model: GraphModel, search_graph: SearchGraph) -> None:
        if search_graph not in ("auto", "one", "steps"):
            raise ConfigError(f"search_graph must be 'auto', 'one' or 'steps', not {search_graph!r}")
        self._bundle, self._model, self._search_graph = bundle, model, search_graph

    def chosen(self, options: ItemSearchOptions) -> Search:
        """The search that can do what is asked.

        Raises:
            ConfigError: one graph was asked for and cannot do it, or the step graphs cannot say what is certain.
        """
        able = options.score_over == "catalogue" and self._bundle.manifest.levels > 0
        if self._search_graph == "one" and not able:
            raise ConfigError(
                f"search_graph='one' scores over the catalogue only, and needs a bundle with {RECOMMEND_FILE}: "
                f"use search_graph='auto', or export the bundle again"
            )
        if options.exact == "retry" and (self._search_graph == "steps" or not able):
            raise ConfigError(f"exact='retry' needs {RECOMMEND_FILE}: use search_graph='auto' and a bundle that has it")
        if self._search_graph == "steps" or not able:
            return self._by_steps
        return self._by_one_graph if self._search_graph == "one" or options.exact == "retry" else self._by_either

    def _by_either(self, batch: ItemBatch, options: ItemSearchOptions) -> FoundItems:
        return (self._by_steps if batch.longest_list > LONG_LIST else self._by_one_graph)(batch, options)

    def _by_one_graph(self, batch: ItemBatch, options: ItemSearchOptions) -> FoundItems:
        found = self._model.recommend(batch.text, batch.task_id, batch.denied, batch.allowed, options, batch.k)
        beams = 2 * max(options.beams, batch.k)
        if options.exact == "report" or found.exact is None or found.exact.all() or beams > MAX_RETRY_BEAMS:
            return found
        again = np.flatnonzero(~found.exact)
        surer = self._by_one_graph(batch.rows(again), replace(options, beams=beams))
        items, scores, exact = found.items.copy(), found.scores.copy(), found.exact.copy()
        items[again], scores[again], exact[again] = surer.items, surer.scores, surer.exact
        return FoundItems(items, scores, exact)

    def _by_steps(self, batch: ItemBatch, options: ItemSearchOptions) -> FoundItems:
        trie, columns = self._bundle.catalog.trie, self._columns[options.score_over]
        limits = ItemLimits(trie, batch.denied, batch.allowed)
        memory = self._model.encode(batch.text, batch.task_id)
        stepper = self._model.stepper(memory, batch.text.size, columns.output_tokens)
        start = self._bundle.manifest.start_token
        return ItemSearch(stepper, trie, columns, limits, options, start, batch.k).run()

    @cached_property
    def _columns(self) -> dict[str, TokenColumns]:
        trie, eos = self._bundle.catalog.trie, self._bundle.tokenizer.eos_id
        return {
            "catalogue": TokenColumns.of_catalogue(trie, eos),
            "vocabulary": TokenColumns.of_vocabulary(trie, eos),
        }
