"""Beam search inside the catalog's trie.

Same choices as ``transformers`` makes with ``early_stopping="never"`` and a ``prefix_allowed_tokens_fn`` that walks the
trie: of the 2·beams best continuations per user, those among the first ``beams`` that end an item are answers, and the
first ``beams`` that do not end live on. Only tokens that the trie allows are ever looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.bundle.trie import NO_ITEM, ROOT, Trie
from podx.decoding.item_filter import ItemFilter
from podx.decoding.options import COMPACT_BELOW, ItemSearchOptions
from podx.decoding.paths import BeamPaths
from podx.decoding.select import NEVER, Ragged, best_columns
from podx.decoding.stepper import FloatArray, IntArray, Stepper

LOOKAHEAD = 2
"""Continuations kept per beam: each beam ends in one way at most, so at least ``beams`` of them go on."""


@dataclass(frozen=True)
class TokenColumns:
    """Where the score of each trie edge stands in a step's output.

    Attributes:
        output_tokens: tokens that are scored, ascending; None = the whole vocabulary.
        edge: int64 [edges], column of each edge's token. end: column of end of sequence.
    """

    output_tokens: IntArray | None
    edge: IntArray
    end: int

    @classmethod
    def of_catalog(cls, trie: Trie, eos_token: int) -> TokenColumns:
        """Only the tokens that occur in some item, and end of sequence."""
        tokens = np.unique(np.append(trie.tokens_in_use(), eos_token)).astype(np.int64)
        edge = np.searchsorted(tokens, trie.edge_token).astype(np.int64)
        return cls(tokens, edge, int(np.searchsorted(tokens, eos_token)))

    @classmethod
    def of_vocabulary(cls, trie: Trie, eos_token: int) -> TokenColumns:
        """Every token of the model."""
        return cls(None, trie.edge_token.astype(np.int64), eos_token)

    def token(self, column: IntArray) -> IntArray:
        """Token ids of columns."""
        return column if self.output_tokens is None else self.output_tokens[column]


@dataclass(frozen=True)
class ItemResults:
    """Answers, best first.

    ``items``: int64 [batch, k], 0 where there are fewer; ``scores``: float32 [batch, k]; ``exact``: bool [batch],
    whether they are certain to be the k items of highest score in the catalog; None where that was not examined.
    """

    items: IntArray
    scores: FloatArray
    exact: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _Candidates:
    """Continuations of a step, laid out [batch, width], best first. ``item`` > 0: the continuation ends that item."""

    score: FloatArray
    beam: IntArray
    node: IntArray
    column: IntArray
    item: IntArray


class ItemSearch:
    """One search for a batch of users.

    Args:
        stepper: the model, holding this batch's memory.
        trie: the catalog's; ``columns``: where its tokens' scores stand.
        item_filter: permitted items of each user.
        start_token: first token the decoder is fed.
        k: answers wanted per user.
    """

    def __init__(
        self,
        stepper: Stepper,
        trie: Trie,
        columns: TokenColumns,
        item_filter: ItemFilter,
        options: ItemSearchOptions,
        start_token: int,
        k: int,
    ) -> None:
        self._stepper, self._trie, self._columns, self._filter = stepper, trie, columns, item_filter
        self._start, self._k = start_token, k
        self._beams = max(options.beams, k)
        self._penalty = options.length_penalty
        self._max_tokens = trie.depth + 1
        batch = len(item_filter.possible)
        self._rows = np.arange(batch)  # user of each row that is still searched
        self._results = ItemResults(
            np.full((batch, self._beams), NO_ITEM, dtype=np.int64),
            np.full((batch, self._beams), NEVER, dtype=np.float32),
        )

    def run(self) -> ItemResults:
        """Search to the end and return the k best permitted items of each user."""
        batch = len(self._rows)
        paths = BeamPaths(batch)
        tokens = np.full((batch, 1), self._start, dtype=np.int64)
        node = np.full((batch, 1), ROOT, dtype=np.int64)
        score = np.zeros((batch, 1), dtype=np.float32)
        for length in range(1, self._max_tokens + 1):
            log_probs = self._stepper.step(tokens, paths.advance())
            best = self._candidates(log_probs, node, score)
            self._collect(best, length)
            score, parents, node, column = self._survivors(best)
            paths.follow(parents)
            tokens = self._columns.token(column)
            score = self._prune(score, length)
            live = (score > NEVER).sum(axis=1)
            if not live.any():
                break
            if np.count_nonzero(live) <= COMPACT_BELOW * len(live):
                going = np.flatnonzero(live)
                score, node, tokens = score[going], node[going], tokens[going]
                self._drop(going, paths)
            width = int(live.max())
            score, node, tokens = score[:, :width], node[:, :width], tokens[:, :width]
            paths.narrow(width)
        return ItemResults(self._results.items[:, : self._k], self._results.scores[:, : self._k])

    def _candidates(self, log_probs: FloatArray, node: IntArray, score: FloatArray) -> _Candidates:
        """All permitted continuations of the live beams, cut to the best per user."""
        user, beam = np.nonzero(score > NEVER)
        at, total = node[user, beam], score[user, beam]
        first, last = self._trie.child_start[at], self._trie.child_start[at + 1]
        counts = last - first
        source = np.repeat(np.arange(len(at)), counts)
        edge = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        child = edge + 1  # breadth-first numbering: edge e leads to node e + 1
        open_child = self._filter.may_enter(user[source], child)
        source, edge, child = source[open_child], edge[open_child], child[open_child]
        item = self._trie.item[at].astype(np.int64)
        ends = np.flatnonzero((item != NO_ITEM) & self._filter.may_return(user, item))
        origin = np.concatenate([source, ends])
        column = np.concatenate([self._columns.edge[edge], np.full(len(ends), self._columns.end)])
        leads_to = np.concatenate([child, at[ends]])
        answer = np.concatenate([np.zeros(len(source), dtype=np.int64), item[ends]])
        order = np.argsort(user[origin], kind="stable")
        origin, column, leads_to, answer = origin[order], column[order], leads_to[order], answer[order]
        owner, parent = user[origin], beam[origin]
        reached = total[origin] + log_probs[owner, parent, column]
        places = Ragged.of(owner, len(score))
        best = best_columns(places.grid(reached, NEVER), LOOKAHEAD * self._beams)
        return _Candidates(
            score=places.at(reached, best, NEVER),
            beam=places.at(parent, best, 0),
            node=places.at(leads_to, best, ROOT),
            column=places.at(column, best, 0),
            item=places.at(answer, best, NO_ITEM),
        )

    def _collect(self, best: _Candidates, length: int) -> None:
        """Keep answers among the first ``beams`` continuations, with the earlier ones, best first."""
        head = slice(0, self._beams)
        ended = best.item[:, head] != NO_ITEM
        if not ended.any():
            return
        scores = np.where(ended, best.score[:, head] / np.float32(length**self._penalty), NEVER)
        items = np.where(ended, best.item[:, head], NO_ITEM)
        scores = np.concatenate([self._results.scores[self._rows], scores.astype(np.float32)], axis=1)
        items = np.concatenate([self._results.items[self._rows], items], axis=1)
        order = best_columns(scores, self._beams)
        self._results.scores[self._rows] = np.take_along_axis(scores, order, axis=1)
        self._results.items[self._rows] = np.take_along_axis(items, order, axis=1)

    def _survivors(self, best: _Candidates) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """The first ``beams`` continuations that do not end: score, parent beam, node, column, each [batch, beams]."""
        running = np.where(best.item == NO_ITEM, best.score, NEVER)
        order = best_columns(running, self._beams)
        picked = (np.take_along_axis(grid, order, axis=1) for grid in (running, best.beam, best.node, best.column))
        score, parent, node, column = picked
        return score, parent, node, column

    def _prune(self, score: FloatArray, length: int) -> FloatArray:
        """Strike out live beams that can no longer enter the k answers.

        A log-probability only lowers a sum, and a live beam has at least one token to come. So it ends at most at its
        sum so far divided by the length that suits it best: the longest with a positive length penalty, the next
        otherwise. Whatever takes a struck beam's place among the best continuations has a lower sum still and cannot
        enter either, so the k answers are those of the search without pruning.
        """
        if length == self._max_tokens:
            return np.full_like(score, NEVER)
        kindest = self._max_tokens if self._penalty > 0 else length + 1
        bound = score / np.float32(kindest**self._penalty)
        worst = self._results.scores[self._rows, self._k - 1]
        return np.where(bound > worst[:, None], score, NEVER)

    def _drop(self, kept: IntArray, paths: BeamPaths) -> None:
        self._rows = self._rows[kept]
        self._filter = self._filter.keep(kept)
        self._stepper.keep(kept)
        paths.keep(kept)
