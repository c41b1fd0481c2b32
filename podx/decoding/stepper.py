"""The one thing a search needs from a model: scores of the next token."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Stepper(Protocol):
    """Scores of the next token for the live beams of a batch of users. Keeps the cache between calls."""

    def step(self, tokens: IntArray, distance: IntArray) -> FloatArray:
        """Advance one step.

        Args:
            tokens: last token of each beam, [batch, beams].
            distance: how many steps ago each cache slot was filled, or -1 where it is not on the beam's path,
                [batch, beams, slots], this step's own slots last.

        Returns:
            log-probabilities, [batch, beams, scored tokens].
        """
        ...

    def keep(self, users: IntArray) -> None:
        """Go on with these rows of the batch only."""
        ...


class BestTokens(NamedTuple):
    """The most probable next tokens of each beam, [batch, beams, candidates]: log-probabilities and tokens."""

    log_probs: FloatArray
    tokens: IntArray


class TextStepper(Protocol):
    """The best next tokens for the live beams of a batch of users. Keeps the cache, and where beams stand in it."""

    def step(self, tokens: IntArray, parents: IntArray | None, count: int) -> BestTokens:
        """Advance one step.

        Args:
            tokens: last token of each beam, [batch, beams].
            parents: which beam of the step before each one continues, [batch, beams]; None in the first step.
            count: tokens wanted for each beam. There are fewer only where fewer are scored.
        """
        ...

    def keep(self, users: IntArray) -> None:
        """Go on with these rows of the batch only."""
        ...
