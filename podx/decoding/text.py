"""Beam search over the whole vocabulary, with groups that avoid one another (diverse beam search).

One group is the beam search of ``transformers`` with ``early_stopping="never"``. With several, the groups of a user
take turns in every step, and a token's log-probability is lowered by ``diversity_penalty`` for each beam of an earlier
group that took that token in this step (Vijayakumar et al. 2018, Hamming diversity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.decoding.options import COMPACT_BELOW, TextSearchOptions
from podx.decoding.paths import BeamPaths
from podx.decoding.select import NEVER, best_columns, best_of_wide_rows
from podx.decoding.stepper import FloatArray, IntArray, Stepper

LOOKAHEAD = 2


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
        self.score = np.take_along_axis(running, order, axis=1)
        beam = np.take_along_axis(best.beam, order, axis=1)
        self.parent = first_row + beam
        chosen = np.take_along_axis(best.token, order, axis=1)
        past = np.take_along_axis(self.tokens, beam[:, :, None], axis=1)
        self.tokens = np.concatenate([past, chosen[:, :, None]], axis=2)

    def keep(self, rows: IntArray) -> None:
        """Go on with these rows of the live batch only."""
        self.score, self.tokens, self.parent = self.score[rows], self.tokens[rows], self.parent[rows]


class TextSearch:
    """One search for a batch of users.

    Args:
        stepper: the model, holding this batch's memory, scoring the whole vocabulary.
        start_token, eos_token: as in the model's configuration.
    """

    def __init__(
        self, stepper: Stepper, batch: int, options: TextSearchOptions, start_token: int, eos_token: int
    ) -> None:
        self._stepper, self._options, self._eos, self._start = stepper, options, eos_token, start_token
        self._rows = np.arange(batch)
        width = options.beams_per_group
        self._groups = [_Group(batch, width) for _ in range(options.computed_groups)]

    def run(self) -> list[list[Hypothesis]]:
        """Hypotheses of each user, best first, all groups together."""
        options, batch = self._options, len(self._rows)
        paths = BeamPaths(batch)
        tokens = np.full((batch, 1), self._start, dtype=np.int64)
        for length in range(1, options.max_length):
            log_probs = self._stepper.step(tokens, paths.advance())
            self._advance_groups(log_probs, length, first=length == 1)
            live = self._live(length)
            if length + 1 == options.max_length or not live.any():
                break
            paths.follow(np.concatenate([group.parent for group in self._groups], axis=1))
            tokens = np.concatenate([group.tokens[:, :, -1] for group in self._groups], axis=1)
            if live.mean() <= COMPACT_BELOW:
                kept = np.flatnonzero(live)
                tokens = tokens[kept]
                self._keep(kept, paths)
        return self._answers(batch)

    def _advance_groups(self, log_probs: FloatArray, length: int, first: bool) -> None:
        """One turn of every group. In the first step all groups read the same single row."""
        if length < self._options.min_length:
            log_probs = log_probs.copy()
            log_probs[:, :, self._eos] = NEVER
        taken = np.zeros((len(log_probs), log_probs.shape[2]), dtype=np.float32) if len(self._groups) > 1 else None
        last = length + 1 == self._options.max_length
        next_row = 0
        for group in self._groups:
            first_row, live = next_row, 1 if first else group.score.shape[1]
            next_row = 0 if first else first_row + live
            scores = log_probs[:, first_row : first_row + live] + group.score[:, :live, None]
            if taken is not None:
                scores = scores - np.float32(self._options.diversity_penalty) * taken[:, None, :]
            best = self._best(scores, group.beams)
            ends = (best.token == self._eos) | last
            self._collect(group, best, ends, length)
            group.advance(best, ends, first_row)
            if taken is not None:
                user, beam = np.nonzero(group.score > NEVER)
                np.add.at(taken, (user, group.tokens[user, beam, -1]), np.float32(1))

    def _best(self, scores: FloatArray, beams: int) -> _Step:
        batch, rows, vocabulary = scores.shape
        flat = scores.reshape(batch, rows * vocabulary)
        columns = best_of_wide_rows(flat, LOOKAHEAD * beams)
        score = np.take_along_axis(flat, columns, axis=1)
        return _Step(score, columns // vocabulary, columns % vocabulary)

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
        """Users of whom some group's best live beam could still enter that group's hypotheses."""
        options = self._options
        longest = options.max_length - 1 if options.length_penalty > 0 else length
        live = np.zeros(len(self._rows), dtype=np.bool_)
        for group in self._groups:
            bound = group.score[:, 0] / np.float32(longest**options.length_penalty)
            pools = [group.finished[row] for row in self._rows]
            worst = np.array([pool[-1].score if len(pool) == group.beams else NEVER for pool in pools])
            live |= (group.score[:, 0] > NEVER) & (bound > worst)
        return live

    def _keep(self, kept: IntArray, paths: BeamPaths) -> None:
        self._rows = self._rows[kept]
        self._stepper.keep(kept)
        paths.keep(kept)
        for group in self._groups:
            group.keep(kept)

    def _answers(self, batch: int) -> list[list[Hypothesis]]:
        merged = [[h for group in self._groups for h in group.finished[row]] for row in range(batch)]
        return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in merged]
