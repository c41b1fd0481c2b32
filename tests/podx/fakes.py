"""Stand-ins for the model: log-probabilities that are a pure function of a seed and of the tokens on a beam's path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from podx.bundle.bundle import Bundle
from podx.bundle.signature import DECODER_FILE
from podx.decoding.stepper import FloatArray, IntArray
from podx.decoding.text import WholeRows
from podx.graphs.session import SessionOptions
from podx.text.inputs import Batch

SeedArray = npt.NDArray[np.uint64]

_WORDS_APART = 100_003


def mixed(state: SeedArray, number: IntArray) -> SeedArray:
    """A new state that depends on every bit of both (the finaliser of splitmix64)."""
    x = state * np.uint64(0x9E3779B97F4A7C15) + np.asarray(number, dtype=np.int64).astype(np.uint64) + np.uint64(1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Logits:
    """What logits look like.

    Attributes:
        spread: they lie between 0 and this; a large one makes the best token all but certain.
        levels: draw them from that many values, so that scores tie.
    """

    spread: float = 6.0
    levels: int | None = None


EVEN, SHARP, TIED = Logits(), Logits(spread=40.0), Logits(levels=2)


def log_probs_of(state: SeedArray, tokens: IntArray, logits: Logits = EVEN) -> FloatArray:
    """Log-probabilities of ``tokens`` after the path that led to ``state``: [...] → [..., tokens]."""
    noise = (mixed(state[..., None], tokens) >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    values = logits.spread * (noise if logits.levels is None else np.floor(noise * logits.levels) / logits.levels)
    return (values - np.log(np.exp(values).sum(axis=-1, keepdims=True))).astype(np.float32)


class PathModel:
    """The same function, asked for one explicit path at a time; what the reference searches use."""

    def __init__(self, seed: int, tokens: IntArray, logits: Logits = EVEN) -> None:
        self._seed, self._tokens, self._logits = np.array([seed], dtype=np.uint64), tokens, logits
        self.next = lru_cache(maxsize=None)(self._next)

    def _next(self, path: tuple[int, ...]) -> dict[int, np.float32]:
        state = self._seed
        for token in path:
            state = mixed(state, np.array([token]))
        return dict(zip(self._tokens.tolist(), log_probs_of(state, self._tokens, self._logits)[0], strict=True))


class HashStepper:
    """A stepper that knows a beam's path only through the slots that ``distance`` marks.

    Were the slots of another beam marked, or an ancestor missing, the log-probabilities would be those of another path.

    Attributes:
        shapes: (rows, beams) of each step, so that tests can see what was computed.
    """

    def __init__(self, seeds: SeedArray, tokens: IntArray, logits: Logits = EVEN) -> None:
        self._seeds, self._tokens, self._logits = np.asarray(seeds, dtype=np.uint64), tokens, logits
        self._slots = np.zeros((len(self._seeds), 0), dtype=np.int64)  # token in each slot: [rows, slots]
        self.shapes: list[tuple[int, int]] = []

    def step(self, tokens: IntArray, distance: IntArray) -> FloatArray:
        rows, beams = tokens.shape
        self._slots = np.concatenate([self._slots, tokens], axis=1)
        assert distance.dtype == np.int64 and distance.shape == (rows, beams, self._slots.shape[1])
        assert distance.min() >= -1 and distance.max() == len(self.shapes)
        self.shapes.append((rows, beams))
        state = np.broadcast_to(self._seeds[:, None], (rows, beams))
        for age in range(len(self.shapes) - 1, -1, -1):
            slot = distance == age
            assert (slot.sum(axis=2) == 1).all(), "a path has one slot per step"
            state = mixed(state, np.take_along_axis(self._slots, slot.argmax(axis=2), axis=1))
        return log_probs_of(state, self._tokens, self._logits)

    def keep(self, users: IntArray) -> None:
        self._seeds, self._slots = self._seeds[users], self._slots[users]


class FakeGraphModel:
    """In place of :class:`podx.graphs.model.GraphModel`: what an input encodes to does not depend on its batch."""

    divided = 1

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        self._vocabulary = np.arange(bundle.tokenizer.vocab_size)
        self.device = options.device
        self.shapes: list[tuple[int, int]] = []  # (records, source) of each batch
        self.opened: set[str] = set()

    def open(self, names: Collection[str]) -> None:
        self.opened.update(names)

    def parts(self, memory: Mapping[str, SeedArray], users: int) -> list[tuple[Mapping[str, SeedArray], int]]:
        seeds = np.array_split(memory["seeds"], self.divided)
        return [({"seeds": part}, len(part)) for part in seeds]

    def encode(self, batch: Batch, task_id: int) -> dict[str, SeedArray]:
        self.shapes.append((batch.size, batch.input_ids.shape[1]))
        return {"seeds": input_seeds(batch, task_id)}

    def stepper(self, memory: Mapping[str, SeedArray], batch: int, output_tokens: IntArray | None) -> HashStepper:
        assert len(memory["seeds"]) == batch
        return HashStepper(memory["seeds"], self._vocabulary if output_tokens is None else output_tokens)

    def text_graph(self, explanations_only: bool) -> str:
        return DECODER_FILE

    def text_stepper(
        self, memory: Mapping[str, SeedArray], batch: int, explanations_only: bool, alone: bool = False
    ) -> WholeRows:
        return WholeRows(self.stepper(memory, batch, None), batch)


def input_seeds(batch: Batch, task_id: int) -> SeedArray:
    """A seed per record, of its tokens, whole words and task; padding leaves no trace."""
    state = np.full(batch.size, task_id, dtype=np.uint64)
    for column in range(batch.input_ids.shape[1]):
        word = batch.input_ids[:, column] * _WORDS_APART + batch.whole_word_ids[:, column]
        state = np.where(batch.attention_mask[:, column] == 1, mixed(state, word), state)
    return state
