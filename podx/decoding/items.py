"""Beam search inside the catalog's trie.

Same choices as ``transformers`` makes with ``early_stopping="never"`` and a ``prefix_allowed_tokens_fn`` that walks the
trie: of the 2·beams best continuations per user, those among the first ``beams`` that end an item are answers, and the
first ``beams`` that do not end live on. Only tokens that the trie allows are ever looked at.

Over siblings (one-pass models), an item ends with its last token, for no item begins another there and no end of
sequence is scored: of the ``beams`` best continuations those that end an item are answers, and the others live on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from podx.bundle.manifest import LIKELY
from podx.bundle.trie import NO_ITEM, ROOT, Trie
from podx.decoding.item_filter import ItemFilter
from podx.decoding.options import COMPACT_BELOW, ItemSearchOptions
from podx.decoding.paths import BeamPaths
from podx.decoding.select import NEVER, Ragged, best_columns
from podx.decoding.stepper import FloatArray, IntArray, Stepper

LOOKAHEAD = 2
"""Continuations kept per beam: each beam ends in one way at most, so at least ``beams`` of them go on."""
TINY = np.float32(1e-30)
"""Stands for a probability of 0, of which there is no logarithm."""


@dataclass(frozen=True)
class TokenColumns:
    """Where the score of each trie edge stands in a step's output.

    Attributes:
        output_tokens: tokens that are scored, ascending; None = the whole vocabulary.
        edge: int64 [edges], column of each edge's token. end: column of end of sequence.
        siblings: whether scores are to be normalised over the children of a node.
        ceiling: of the manifest; ``last``: length of the longest item, whose last token has it.
    """

    output_tokens: IntArray | None
    edge: IntArray
    end: int
    siblings: bool = False
    ceiling: float = 1.0
    last: int = 0

    @classmethod
    def of_catalog(cls, trie: Trie, eos_token: int) -> TokenColumns:
        """Only the tokens that occur in some item, and end of sequence."""
        tokens = np.unique(np.append(trie.tokens_in_use(), eos_token)).astype(np.int64)
        edge = np.searchsorted(tokens, trie.edge_token).astype(np.int64)
        return cls(tokens, edge, int(np.searchsorted(tokens, eos_token)))

    @classmethod
    def of_siblings(cls, trie: Trie, eos_token: int, ceiling: float = 1.0, levels: int = 0) -> TokenColumns:
        """The same tokens, each scored among those that the trie allows beside it; the last of several by a ceiling."""
        return replace(
            cls.of_catalog(trie, eos_token), siblings=True, ceiling=ceiling if levels > 1 else 1.0, last=levels
        )

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
    whether they are certain to be the k items of highest score in the catalog, masked for those of whom that was not
    examined; None where it was for none.
    """

    items: IntArray
    scores: FloatArray
    exact: npt.NDArray[np.bool_] | None = None


class _Continuations(NamedTuple):
    """What may follow the live beams, one entry each.

    Attributes:
        beam: the live beam it continues, among all users'. gain: log-probability.
        column, node: token and node it leads to. item: item that it ends, or 0.
    """

    beam: IntArray
    gain: FloatArray
    column: IntArray
    node: IntArray
    item: IntArray

    def taken(self, chosen: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> _Continuations:
        """Some of them."""
        beam, gain, column, node, item = self
        return _Continuations(beam[chosen], gain[chosen], column[chosen], node[chosen], item[chosen])

    def followed_by(self, others: _Continuations) -> _Continuations:
        """These, then others."""
        merged: list[npt.NDArray[Any]] = [np.concatenate([own, more]) for own, more in zip(self, others, strict=True)]
        return _Continuations(*merged)


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
        start: first token the decoder is fed, one for all users or int64 [batch].
        k: answers wanted per user.
    """

    def __init__(
        self,
        stepper: Stepper,
        trie: Trie,
        columns: TokenColumns,
        item_filter: ItemFilter,
        options: ItemSearchOptions,
        start: int | IntArray,
        k: int,
    ) -> None:
        self._stepper, self._trie, self._columns, self._filter = stepper, trie, columns, item_filter
        self._start, self._k = start, k
        self._beams = options.width(k)
        self._penalty = options.length_penalty
        self._max_tokens = trie.depth + (not columns.siblings)
        self._lookahead = self._beams * (1 if columns.siblings else LOOKAHEAD)
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
        tokens = np.full((batch, 1), np.reshape(self._start, (-1, 1)), dtype=np.int64)
        node = np.full((batch, 1), ROOT, dtype=np.int64)
        score = np.zeros((batch, 1), dtype=np.float32)
        for length in range(1, self._max_tokens + 1):
            log_probs = self._stepper.step(tokens, paths.advance())
            best = self._candidates(log_probs, node, score, length)
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
        every_item_was_scored = self._columns.siblings and self._trie.depth == 1
        exact = np.ones(batch, dtype=np.bool_) if every_item_was_scored else None
        return ItemResults(self._results.items[:, : self._k], self._results.scores[:, : self._k], exact)

    def _candidates(self, log_probs: FloatArray, node: IntArray, score: FloatArray, length: int) -> _Candidates:
        """All permitted continuations of the live beams, cut to the best per user."""
        user, beam = np.nonzero(score > NEVER)
        at, total = node[user, beam], score[user, beam]
        least = self._columns.ceiling if length == self._columns.last else 1.0
        found = self._children(log_probs, user, beam, at, np.clip(np.exp(total) / np.float32(LIKELY), least, 1))
        if not self._columns.siblings:
            found = found.followed_by(self._ends(log_probs, user, beam, at))
            found = found.taken(np.argsort(user[found.beam], kind="stable"))
        owner, parent = user[found.beam], beam[found.beam]
        reached = total[found.beam] + found.gain
        places = Ragged.of(owner, len(score))
        best = best_columns(places.grid(reached, NEVER), self._lookahead)
        return _Candidates(
            score=places.at(reached, best, NEVER),
            beam=places.at(parent, best, 0),
            node=places.at(found.node, best, ROOT),
            column=places.at(found.column, best, 0),
            item=places.at(found.item, best, NO_ITEM),
        )

    def _children(
        self, log_probs: FloatArray, user: IntArray, beam: IntArray, at: IntArray, ceiling: FloatArray
    ) -> _Continuations:
        """One more token of an item, for beams at nodes ``at``. ``ceiling``: see :func:`_normalised`."""
        first, last = self._trie.child_start[at], self._trie.child_start[at + 1]
        counts = last - first
        before = np.cumsum(counts) - counts
        source = np.repeat(np.arange(len(at)), counts)
        edge = np.arange(len(source)) - np.repeat(before, counts) + np.repeat(first, counts)
        column = self._columns.edge[edge]
        gain = log_probs[user[source], beam[source], column]
        child = edge + 1  # breadth-first numbering: edge e leads to node e + 1
        if self._columns.siblings:
            gain = _normalised(gain, before, counts, ceiling)
            item = self._trie.item[child].astype(np.int64)
        else:
            item = np.full(len(child), NO_ITEM, dtype=np.int64)
        permitted = self._filter.may_enter(user[source], child)
        return _Continuations(source, gain, column, child, item).taken(permitted)

    def _ends(self, log_probs: FloatArray, user: IntArray, beam: IntArray, at: IntArray) -> _Continuations:
        """The end of sequence, where a permitted item ends at a node."""
        item = self._trie.item[at].astype(np.int64)
        ends = np.flatnonzero((item != NO_ITEM) & self._filter.may_return(user, item))
        column = np.full(len(ends), self._columns.end)
        return _Continuations(ends, log_probs[user[ends], beam[ends], column], column, at[ends], item[ends])

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


def _normalised(log_probs: FloatArray, starts: IntArray, counts: IntArray, ceiling: FloatArray) -> FloatArray:
    """Log-probabilities in runs (``starts``, ``counts``, none empty), each made a distribution of its own.

    One that exceeds its ceiling (float32 [runs], docs/architecture.md) is mixed with even chances until it does not.
    """
    if not len(counts):
        return log_probs
    shifted: FloatArray = log_probs - np.repeat(np.maximum.reduceat(log_probs, starts), counts)
    total: FloatArray = np.log(np.add.reduceat(np.exp(shifted), starts))
    normalised: FloatArray = shifted - np.repeat(total, counts)
    if (ceiling == 1).all():
        return normalised
    even = 1 / counts.astype(np.float32)
    above = np.maximum(np.exp(np.maximum.reduceat(normalised, starts)) - even, TINY)
    kept = np.minimum(ceiling * (1 - even) / above, 1)
    kept, spread = (np.repeat(each, counts) for each in (kept, even * (1 - kept) + TINY))
    mixed: FloatArray = np.log(np.exp(normalised) * kept + spread)
    return mixed
