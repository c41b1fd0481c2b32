"""Beam search over the whole vocabulary, with groups that avoid one another (diverse beam search).

One group is the beam search of ``transformers``, with its usual end or ``early_stopping="never"``. With several, the
groups of a user take turns in every step, and a token's log-probability is lowered by ``diversity_penalty`` for each
beam of an earlier group that took that token in this step (Vijayakumar et al. 2018, Hamming diversity).

A step gives the best tokens of each beam alone. They hold all that can be chosen: 2·beams of the best continuations of
a group, as many more as earlier groups may have made worse, and one for an end of sequence that comes too early.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.decoding.options import TextSearchOptions
from podx.decoding.paths import BeamPaths
from podx.decoding.select import NEVER, best_columns, best_of_wide_rows, entries
from podx.decoding.stepper import BestTokens, FloatArray, IntArray, Stepper, TextStepper

LOOKAHEAD = 2
NO_TOKEN = -1


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence. ``tokens``: without start token and end of sequence."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class _Step:
    """Best continuations of one group, [batch, 2·beams], best first."""

    score: FloatArray
    beam: IntArray
    token: IntArray


class _Group:
    """Live beams and finished hypotheses of one group of every user."""

    def __init__(self, batch: int, beams: int) -> None:
        self.beams = beams
        self.score = np.full((batch, beams), NEVER, dtype=np.float32)
        self.score[:, 0] = 0.0  # one copy of the start, or all beams would be alike
        self.tokens = np.zeros((batch, beams, 0), dtype=np.int64)
        self.parent = np.zeros((batch, beams), dtype=np.int64)  # row of the step's output, all groups' beams in one
        self.finished: list[list[Hypothesis]] = [[] for _ in range(batch)]

    def advance(self, best: _Step, ends: npt.NDArray[np.bool_], first_row: int) -> None:
        """Go on with the first ``beams`` continuations that do not end. ``first_row``: of this group in the step."""
        running = np.where(ends, NEVER, best.score)
        order = best_columns(running, self.beams)
        self.score, beam, chosen = (entries(of, order) for of in (running, best.beam, best.token))
        self.parent = first_row + beam
        self.tokens = np.concatenate([entries(self.tokens, beam), chosen[:, :, None]], axis=2)

    def keep(self, rows: IntArray) -> None:
        """Go on with these rows of the live batch only."""
        self.score, self.tokens, self.parent = self.score[rows], self.tokens[rows], self.parent[rows]


class TextSearch:
    """One search for a batch of users.

    Args:
        stepper: the model, holding this batch's memory.
        start_token, eos_token: as in the model's configuration.
    """

    def __init__(
        self, stepper: TextStepper, batch: int, options: TextSearchOptions, start_token: int, eos_token: int
    ) -> None:
        self._stepper, self._options, self._eos, self._start = stepper, options, eos_token, start_token
        self._rows = np.arange(batch)
        width = options.beams_per_group
        self._groups = [_Group(batch, width) for _ in range(options.computed_groups)]
        self._candidates = (LOOKAHEAD + len(self._groups) - 1) * width + 1

    def run(self) -> list[list[Hypothesis]]:
        """Hypotheses of each user, best first, all groups together."""
        options, batch = self._options, len(self._rows)
        tokens = np.full((batch, 1), self._start, dtype=np.int64)
        parents = None
        for length in range(1, options.max_length):
            best = self._stepper.step(tokens, parents, self._candidates)
            self._advance_groups(best, length, first=length == 1)
            live = self._live(length)
            if length + 1 == options.max_length or not live.any():
                break
            if not live.all():
                kept = np.flatnonzero(live)
                self._rows = self._rows[kept]
                self._stepper.keep(kept)
                for group in self._groups:
                    group.keep(kept)
            parents = np.concatenate([group.parent for group in self._groups], axis=1)
            tokens = np.concatenate([group.tokens[:, :, -1] for group in self._groups], axis=1)
        return self._answers(batch)

    def _advance_groups(self, found: BestTokens, length: int, first: bool) -> None:
        """One turn of every group. In the first step all groups read the same single row."""
        rows = found.tokens.reshape(-1, found.tokens.shape[2])
        order = np.argsort(rows, axis=1)  # so that of equal scores that of the lowest token is chosen
        tokens = entries(rows, order).reshape(found.tokens.shape)
        log_probs = entries(found.log_probs.reshape(rows.shape), order).reshape(tokens.shape)
        if length < self._options.min_length:
            log_probs[tokens == self._eos] = NEVER
        taken = np.zeros((len(tokens), 0), dtype=np.int64)
        last = length + 1 == self._options.max_length
        next_row = 0
        for group in self._groups:
            first_row, live = next_row, 1 if first else group.score.shape[1]
            next_row = 0 if first else first_row + live
            mine = tokens[:, first_row : first_row + live]
            scores = log_probs[:, first_row : first_row + live] + group.score[:, :live, None]
            if taken.shape[1]:
                times = (mine[:, :, :, None] == taken[:, None, None, :]).sum(axis=3, dtype=np.float32)
                scores = scores - np.float32(self._options.diversity_penalty) * times
            best = self._best(scores, mine, group.beams)
            ends = (best.token == self._eos) | last
            self._collect(group, best, ends, length)
            group.advance(best, ends, first_row)
            if group is not self._groups[-1]:
                taken = np.hstack([taken, np.where(group.score > NEVER, group.tokens[:, :, -1], NO_TOKEN)])

    def _best(self, scores: FloatArray, tokens: IntArray, beams: int) -> _Step:
        batch, _, candidates = scores.shape
        flat = scores.reshape(batch, -1)
        columns = best_columns(flat, LOOKAHEAD * beams)
        return _Step(entries(flat, columns), columns // candidates, entries(tokens.reshape(batch, -1), columns))

    def _collect(self, group: _Group, best: _Step, ends: npt.NDArray[np.bool_], length: int) -> None:
        """Continuations that end among the first ``beams`` become hypotheses; the best ``beams`` of them are kept."""
        divisor = np.float32(length**self._options.length_penalty)
        for row, place in zip(
            *np.nonzero(ends[:, : group.beams] & (best.score[:, : group.beams] > NEVER)), strict=True
        ):
            token = int(best.token[row, place])
            body = [int(t) for t in group.tokens[row, best.beam[row, place]]]
            if token != self._eos:
                body.append(token)
            pool = group.finished[self._rows[row]]
            pool.append(Hypothesis(tuple(body), float(best.score[row, place] / divisor)))
            pool.sort(key=lambda hypothesis: -hypothesis.score)
            del pool[group.beams :]

    def _live(self, length: int) -> npt.NDArray[np.bool_]:
        """Users of whom some group's best live beam could still enter that group's hypotheses, or as it is would."""
        options = self._options
        longest = options.max_length - 1 if options.exhaustive and options.length_penalty > 0 else length
        live = np.zeros(len(self._rows), dtype=np.bool_)
        for group in self._groups:
            bound = group.score[:, 0] / np.float32(longest**options.length_penalty)
            pools = [group.finished[row] for row in self._rows]
            worst = np.array([pool[-1].score if len(pool) == group.beams else NEVER for pool in pools])
            live |= (group.score[:, 0] > NEVER) & (bound > worst)
        return live

    def _answers(self, batch: int) -> list[list[Hypothesis]]:
        merged = [[h for group in self._groups for h in group.finished[row]] for row in range(batch)]
        return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in merged]


class WholeRows:
    """A stepper that scores every token, for a search that wants the best. Bundles of older versions have no other."""

    def __init__(self, stepper: Stepper, batch: int) -> None:
        self._stepper, self._paths = stepper, BeamPaths(batch)

    def step(self, tokens: IntArray, parents: IntArray | None, count: int) -> BestTokens:
        """See :class:`podx.decoding.stepper.TextStepper`."""
        if parents is not None:
            self._paths.follow(parents)
        log_probs = self._stepper.step(tokens, self._paths.advance())
        rows = log_probs.reshape(-1, log_probs.shape[2])
        best = best_of_wide_rows(rows, count)
        shape = (*tokens.shape, -1)
        return BestTokens(np.take_along_axis(rows, best, axis=1).reshape(shape), best.reshape(shape))

    def keep(self, users: IntArray) -> None:
        """See :class:`podx.decoding.stepper.TextStepper`."""
        self._stepper.keep(users)
        self._paths.keep(users)
