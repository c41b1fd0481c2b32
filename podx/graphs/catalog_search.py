"""Which graph searches the catalog for a batch, and asking again until the answer is certain."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import numpy as np

from podx.bundle.bundle import Bundle
from podx.bundle.signature import ENCODER_FILE, EXACT_FILE, ITEM_DECODER_FILE, RECOMMEND_FILE
from podx.decoding.item_filter import ItemFilter
from podx.decoding.items import ItemResults, ItemSearch, TokenColumns
from podx.decoding.options import AUTO, DEFAULT_BEAMS, MAX_RETRY_BEAMS, SIBLINGS, ItemSearchOptions, ScoreOver
from podx.errors import ConfigError
from podx.graphs.apart import Search, answered_apart
from podx.graphs.model import GraphModel
from podx.requests.batch import ItemBatch

SearchGraph = Literal["auto", "one", "steps"]
"""``one``: recommend.onnx does the whole search; ``steps``: encoder and decoder graphs, the search in numpy; ``auto``:
the one graph where it can do what is asked."""

LONG_LIST = 512
"""Items in one request's exclusions or allow list above which ``auto`` takes the step graphs: the one graph compares
all exclusions with one another and all allowed items with all beams."""

LONGEST_LIST = 4_096
"""Items in one request's list above which the one graph does not search, whatever was asked for: with as many, it
takes a third of a gigabyte for a moment."""


class CatalogSearch:
    """Searches by one graph or by the step graphs.

    Raises:
        ConfigError: there is no such search graph.
    """

    def __init__(self, bundle: Bundle, model: GraphModel, search_graph: SearchGraph) -> None:
        if search_graph not in ("auto", "one", "steps"):
            raise ConfigError(f"search_graph must be 'auto', 'one' or 'steps', not {search_graph!r}")
        self._bundle, self._model, self._search_graph = bundle, model, search_graph

    @property
    def graphs(self) -> tuple[str, ...]:
        """Files of the graphs by which items are usually searched for."""
        by_one = self._search_graph != "steps" and self._bundle.manifest.levels > 0
        return (RECOMMEND_FILE,) if by_one else (ENCODER_FILE, ITEM_DECODER_FILE)

    def chosen(self, options: ItemSearchOptions) -> Search:
        """The search that can do what is asked.

        Raises:
            ConfigError: one graph was asked for and cannot do it, the step graphs cannot say what is certain, or the
                model was not trained for such scores. So does the search, where a list is too long for the one graph.
        """
        score_over = self._score_over(options)
        able = score_over != "vocabulary" and self._bundle.manifest.levels > 0
        if self._search_graph == "one" and not able:
            raise ConfigError(
                f"search_graph='one' scores over the catalog only, and needs a bundle with {RECOMMEND_FILE}: "
                f"use search_graph='auto', or export the bundle again"
            )
        if options.wants_certainty and (self._search_graph == "steps" or not able):
            raise ConfigError(
                f"exact='retry' and beams='auto' need {RECOMMEND_FILE}: use search_graph='auto' and a bundle that has "
                f"it"
            )
        if self._search_graph == "steps" or not able:
            return partial(self._by_steps, options)
        if options.beams == AUTO:
            if EXACT_FILE in self._bundle.manifest.files:
                return partial(self._together, partial(self._by_exact_graph, options))
            options = replace(options, beams=DEFAULT_BEAMS, exact="retry")
        if self._search_graph == "one" or options.exact == "retry":
            return partial(self._together, partial(self._by_one_graph, options))
        return partial(self._by_either, options)

    def _score_over(self, options: ItemSearchOptions) -> ScoreOver:
        """What scores are to be over: what was asked for, where the model was trained so."""
        one_pass = self._bundle.manifest.one_pass
        asked = options.score_over or (SIBLINGS if one_pass else "catalog")
        if one_pass and asked != SIBLINGS:
            raise ConfigError(
                f"score_over={asked!r} does not fit a one-pass model, which learnt to tell siblings apart and nothing "
                f"else: leave score_over out"
            )
        if asked == SIBLINGS and not one_pass:
            raise ConfigError(
                "score_over='siblings' is for one-pass models, and this one learnt to score all tokens: take 'catalog' "
                "or 'vocabulary'"
            )
        return asked

    def _by_either(self, options: ItemSearchOptions, batch: ItemBatch) -> ItemResults:
        """Each request by the graph that suits its own lists, whoever shares the batch."""
        one, steps = partial(self._model.recommend, options=options), partial(self._by_steps, options)
        return answered_apart(batch, [steps if length > LONG_LIST else one for length in batch.longest_lists])

    def _together(self, one: Search, batch: ItemBatch) -> ItemResults:
        """All by one graph, but those with long lists one at a time: its memory grows with the longest of all."""
        lengths = batch.longest_lists
        longest = max(lengths, default=0)
        if longest > LONGEST_LIST:
            raise ConfigError(
                f"a list of {longest} items is too long for {RECOMMEND_FILE}, which takes {LONGEST_LIST}: "
                f"leave out exact='retry', beams='auto' and search_graph='one', or split the list"
            )
        return answered_apart(batch, [partial(one) if length > LONG_LIST else one for length in lengths])

    def _by_one_graph(self, options: ItemSearchOptions, batch: ItemBatch) -> ItemResults:
        results = self._model.recommend(batch, options)
        beams = 2 * options.width(batch.k)
        if options.exact == "report" or results.exact is None or results.exact.all() or beams > MAX_RETRY_BEAMS:
            return results
        again = np.flatnonzero(~results.exact)
        surer = self._by_one_graph(replace(options, beams=beams), batch.rows(again))
        items, scores, exact = results.items.copy(), results.scores.copy(), results.exact.copy()
        items[again], scores[again], exact[again] = surer.items, surer.scores, surer.exact
        return ItemResults(items, scores, exact)

    def _by_exact_graph(self, options: ItemSearchOptions, batch: ItemBatch) -> ItemResults:
        return self._model.recommend_exactly(batch, options)

    def _by_steps(self, options: ItemSearchOptions, batch: ItemBatch) -> ItemResults:
        trie, columns = self._bundle.catalog.trie, self._columns[self._score_over(options)]
        permitted = ItemFilter(trie, batch.denied, batch.allowed)
        memory = self._model.encode(batch.text, batch.task_id)
        stepper = self._model.stepper(memory, batch.text.size, columns.output_tokens)
        one_pass = self._bundle.manifest.one_pass
        start = batch.text.last_tokens if one_pass else self._bundle.manifest.start_token
        return ItemSearch(stepper, trie, columns, permitted, options, start, batch.k).run()

    @cached_property
    def _columns(self) -> dict[ScoreOver, TokenColumns]:
        trie, eos = self._bundle.catalog.trie, self._bundle.tokenizer.eos_id
        manifest = self._bundle.manifest
        return {
            "catalog": TokenColumns.of_catalog(trie, eos),
            SIBLINGS: TokenColumns.of_siblings(trie, eos, manifest.ceiling, manifest.levels),
            "vocabulary": TokenColumns.of_vocabulary(trie, eos),
        }
