"""Plain re-implementations that the searches are held against: one user, Python lists, no pruning, no early end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.podx.fakes import PathModel

Tokens = tuple[int, ...]


def trie_arrays(items: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and offsets, as :meth:`podx.bundle.trie.Trie.build` reads them."""
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int64)
    return np.array([token for item in items for token in item], dtype=np.int32), offsets


def exhaustive(
    model: PathModel, items: Mapping[int, Tokens], start: int, eos: int, penalty: float
) -> list[tuple[int, float]]:
    """Every item with its score, best first."""
    scored = []
    for number, tokens in items.items():
        path, total = (start,), np.float32(0)
        for token in (*tokens, eos):
            total, path = total + model.next(path)[token], (*path, token)
        scored.append((number, float(total / np.float32((len(tokens) + 1) ** penalty))))
    return sorted(scored, key=lambda pair: -pair[1])


@dataclass(frozen=True)
class _Continuation:
    score: np.float32
    path: Tokens
    token: int


def item_beam_search(
    model: PathModel, items: Mapping[int, Tokens], start: int, eos: int, beams: int, penalty: float
) -> list[tuple[int, float]]:
    """transformers' beam search, early_stopping="never", with a prefix function made of the permitted items.

    Ties are settled as podx does: children before ends, each in order of beam and token; earlier answers first.
    """
    number_of = {tokens: number for number, tokens in items.items()}
    prefixes = {tokens[:n] for tokens in number_of for n in range(len(tokens) + 1)}
    running, answers = [((start,), np.float32(0))], []
    for length in range(1, max(map(len, number_of), default=0) + 2):
        children, ends = [], []
        for path, score in running:
            for token, log_prob in sorted(model.next(path).items()):
                if token == eos and path[1:] in number_of:
                    ends.append(_Continuation(score + log_prob, path, token))
                elif token != eos and (*path[1:], token) in prefixes:
                    children.append(_Continuation(score + log_prob, path, token))
        best = sorted(children + ends, key=lambda c: -c.score)[: 2 * beams]
        for c in best[:beams]:
            if c.token == eos:
                answers.append((number_of[c.path[1:]], float(c.score / np.float32(length**penalty))))
        answers = sorted(answers, key=lambda pair: -pair[1])[:beams]
        running = [((*c.path, c.token), c.score) for c in best if c.token != eos][:beams]
    return answers


@dataclass(frozen=True)
class TextReference:
    """Diverse beam search (one group: transformers' beam search).

    ``usual_end``: it ends once no group's best beam scores better at its present length than the group's worst answer
    (early_stopping=False); else at the greatest length alone.
    """

    start: int
    eos: int
    group_beams: int
    groups: int
    diversity: float
    min_length: int
    max_length: int
    penalty: float
    usual_end: bool

    def search(self, model: PathModel) -> list[tuple[Tokens, float]]:
        running = [[((self.start,), np.float32(0))] for _ in range(self.groups)]
        finished: list[list[tuple[Tokens, float]]] = [[] for _ in range(self.groups)]
        for length in range(1, self.max_length):
            taken: Counter[int] = Counter()
            for group in range(self.groups):
                best = self._continuations(model, running[group], taken, length)
                last = length + 1 == self.max_length
                divisor = np.float32(length**self.penalty)
                for c in best[: self.group_beams]:
                    if c.token == self.eos or last:
                        body = c.path[1:] if c.token == self.eos else (*c.path[1:], c.token)
                        finished[group].append((body, float(c.score / divisor)))
                finished[group] = sorted(finished[group], key=lambda pair: -pair[1])[: self.group_beams]
                going = [] if last else [c for c in best if c.token != self.eos][: self.group_beams]
                running[group] = [((*c.path, c.token), c.score) for c in going]
                taken.update(c.token for c in going)
            if self.usual_end and not any(
                self._may_improve(*pair, length) for pair in zip(running, finished, strict=True)
            ):
                break
        return sorted((pair for pool in finished for pair in pool), key=lambda pair: -pair[1])

    def _may_improve(self, running: Sequence, finished: Sequence, length: int) -> bool:
        full = len(finished) == self.group_beams
        return bool(running) and (not full or running[0][1] / np.float32(length**self.penalty) > finished[-1][1])

    def _continuations(
        self, model: PathModel, running: Collection[tuple[Tokens, np.float32]], taken: Counter[int], length: int
    ) -> list[_Continuation]:
        found = []
        for path, score in running:
            for token, log_prob in sorted(model.next(path).items()):
                if token == self.eos and length < self.min_length:
                    continue
                total = log_prob + score
                if self.groups > 1:
                    total = total - np.float32(self.diversity) * np.float32(taken[token])
                found.append(_Continuation(total, path, token))
        return sorted(found, key=lambda c: -c.score)[: 2 * self.group_beams]
