"""What inputs are written with, as tables of the catalog file, so that a graph can write them from numbers.

A *word* here is what is written as one: a run of a template's plain words, a user, or an item. Words are numbered: the
plain ones first, then users 1, 2, …, then items 1, 2, …, so that new items come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.tables import TableFile

PADDING = 0
"""Token that fills up inputs; one-pass models start with it."""
WORD_TOKENS, WORD_OFFSETS = "inputs.tokens", "inputs.offsets"
READ_TOKEN = "inputs.read_token"

Tokens = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InputWords:
    """Tokens of every word.

    Attributes:
        tokens: int32 [1 + total]: :data:`PADDING`, then the tokens of all words one after another.
        offsets: int64 [words + 1], where each word's tokens begin.
    """

    tokens: Tokens
    offsets: Offsets

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> InputWords:
        """Words whose tokens are given."""
        tokens = np.fromiter(chain((PADDING,), chain.from_iterable(words)), dtype=np.int32)
        return cls(tokens, np.cumsum([1, *map(len, words)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def followed_by(self, other: InputWords, keep: int | None = None) -> InputWords:
        """The first ``keep`` of these words (None: all), then the others."""
        offsets = self.offsets if keep is None else self.offsets[: keep + 1]
        end = offsets[-1]
        tokens = np.concatenate([self.tokens[:end], other.tokens[1:]])
        return InputWords(tokens, np.concatenate([offsets, end - 1 + other.offsets[1:]]))

    @classmethod
    def read(cls, tables: TableFile) -> InputWords | None:
        """Map what :meth:`tables` gave; None where a file has none."""
        has_words = WORD_TOKENS in tables.layout
        return cls(tables.map(WORD_TOKENS), tables.map(WORD_OFFSETS)) if has_words else None

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays to store, by name."""
        return {WORD_TOKENS: self.tokens, WORD_OFFSETS: self.offsets}


def read_tokens(tokens: Tokens, offsets: Offsets) -> Tokens:
    """The token by which a one-pass model reads each item, its last: int32 [items + 2], by item number.

    :data:`PADDING` stands at 0, as what a sequence starts with, and at the end, which is -1 as well.
    """
    return np.pad(tokens[offsets[1:] - 1], 1, constant_values=PADDING)
