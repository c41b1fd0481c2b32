"""What a search may be asked to do. Frozen, and verified where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from podx.errors import ConfigError
from podx.flags import option

DEFAULT_BEAMS = 20
DEFAULT_LENGTH_PENALTY = 1.0
CUDA_GRAPH_K = 10
"""Answers that the graph for CUDA graphs gives; it searches with the default width and length penalty."""
DEFAULT_TEXT_BEAMS = 21
DEFAULT_GROUPS = 3
DEFAULT_MIN_LENGTH = 10
DEFAULT_MAX_LENGTH = 50

MAX_LENGTH_PENALTY = 10.0
"""Either way from 0; beyond it length^penalty would leave the range of float32 before it meant anything."""

COMPACT_BELOW = 0.75
"""A search goes on with its live users only once their share falls to this: each time costs a copy of the cache."""

MAX_RETRY_BEAMS = 320
"""Width at which a search that was to be repeated until it is certain gives up."""

AUTO_BEAMS, MOST_AUTO_BEAMS = 10, 1024
"""Of ``beams="auto"``: width of its first wave, and prefixes of a level that it follows for a user at most."""

ScoreOver = Literal["catalog", "siblings", "vocabulary"]
SIBLINGS: Final = "siblings"
EXPLANATIONS: Final = "explanations"
TextScoreOver = Literal["explanations", "vocabulary"]
Exact = Literal["report", "retry"]
AUTO: Final = "auto"
Beams = int | Literal["auto"]


def _check_length_penalty(value: float) -> None:
    if not -MAX_LENGTH_PENALTY <= value <= MAX_LENGTH_PENALTY:
        limits = f"-{MAX_LENGTH_PENALTY} and {MAX_LENGTH_PENALTY}"
        raise ConfigError(f"length_penalty must lie between {limits}, not {value}")


@dataclass(frozen=True)
class ItemSearchOptions:
    """Search inside the catalog.

    Attributes:
        beams: width of the search; raised to k where more answers are asked for. ``auto``: as wide as it takes for the
            answer to be certain. A one-pass model of several tokens an item then follows up to :data:`MOST_AUTO_BEAMS`
            prefixes of a level; beyond that the answer says ``exact=False``. Other models retry from
            :data:`DEFAULT_BEAMS` beams.
        length_penalty: a hypothesis scores Σ log p ÷ length^length_penalty, end of sequence counted where it is
            scored. 0 compares plain sums, a positive one favours long hypotheses, a negative one short ones.
        score_over: what p is a distribution over. ``catalog``: the tokens that occur in some item, and end of
            sequence, which is fast; ``vocabulary``: every token of the model, which is what ``transformers`` does and
            costs the whole output layer. On a trained model the two barely differ. ``siblings``: the tokens that the
            trie allows at a node, and no end of sequence; one-pass models are trained so and take nothing else. None:
            siblings for one-pass models, the catalog for others.
        exact: ``report`` says with each answer whether it is certain to be the model's best k; ``retry`` asks again,
            with twice the beams each time, for those that are not, up to :data:`MAX_RETRY_BEAMS`.
    """

    beams: Beams = DEFAULT_BEAMS
    length_penalty: float = DEFAULT_LENGTH_PENALTY
    score_over: ScoreOver | None = None
    exact: Exact = "report"

    def __post_init__(self) -> None:
        if self.beams != AUTO and (isinstance(self.beams, str) or self.beams < 1):
            raise ConfigError(f"beams must be at least 1, or 'auto', not {self.beams!r}")
        _check_length_penalty(self.length_penalty)
        if self.score_over not in (None, *get_args(ScoreOver)):
            raise ConfigError(
                f"score_over must be {', '.join(map(repr, get_args(ScoreOver)))}, not {self.score_over!r}"
            )
        if self.exact not in ("report", "retry"):
            raise ConfigError(f"exact must be 'report' or 'retry', not {self.exact!r}")
        if self.wants_certainty and self.score_over == "vocabulary":
            raise ConfigError(
                "exact='retry' and beams='auto' need score_over='catalog': a search of the vocabulary is never certain"
            )

    @property
    def wants_certainty(self) -> bool:
        """Whether the search is to go on until the answer is certain."""
        return self.exact == "retry" or self.beams == AUTO

    def width(self, k: int) -> int:
        """Beams for ``k`` answers, of a search that is as wide all the time."""
        return max(DEFAULT_BEAMS if self.beams == AUTO else self.beams, k)


USUAL_SEARCH = ItemSearchOptions()
"""Where a caller names none."""


@dataclass(frozen=True)
class TextSearchOptions:
    """Search of texts.

    Attributes:
        beams: width, all groups together.
        groups: how many groups the beams are divided into (diverse beam search, Vijayakumar et al. 2018). They differ
            only by the penalty, so with penalty 0 one group of ``beams / groups`` beams is computed.
        diversity_penalty: taken from a token's log-probability for every beam of an earlier group that chose it in this
            step; what is taken stays in the hypothesis's score.
        min_length, max_length: of the whole sequence, start token and end of sequence counted, as in ``transformers``.
        length_penalty: as in :class:`ItemSearchOptions`.
        score_over: what p is a distribution over, and what is written. ``explanations``: the tokens that occur in the
            explanations of the training part, and end of sequence; a bundle of a checkpoint that does not know them
            takes all tokens, and so do searches that are not of explanations. ``vocabulary``: every token of the model.
        exhaustive: go on as long as a live beam might still come to a better score at the greatest length
            (``early_stopping="never"`` of transformers), which doubles the steps of a usual text. Else end, as POD's
            published code does, once the best live beam scores no better at its present length than the worst answer.
    """

    beams: int = option(DEFAULT_TEXT_BEAMS, "Width of the search, all groups together.")
    groups: int = option(DEFAULT_GROUPS, "Groups of beams; they differ by the penalty alone.")
    diversity_penalty: float = option(0.0, "What groups that choose alike pay; 0: one group of beams.")
    min_length: int = option(DEFAULT_MIN_LENGTH, "Least tokens, start and end counted.")
    max_length: int = option(DEFAULT_MAX_LENGTH, "Most tokens, start and end counted.")
    length_penalty: float = option(1.0, "Scores are divided by the length to this power.")
    score_over: TextScoreOver = option(
        EXPLANATIONS, "Tokens to write with: of the training's explanations, or the whole vocabulary."
    )
    exhaustive: bool = option(
        False, "Search on while a better text may come at the greatest length.", flag="--exhaustive"
    )

    def __post_init__(self) -> None:
        if self.beams < 1 or self.groups < 1 or self.beams % self.groups:
            raise ConfigError(f"beams ({self.beams}) must be a positive multiple of groups ({self.groups})")
        if not 0 <= self.diversity_penalty < math.inf:
            raise ConfigError(f"diversity_penalty must be 0 or a positive number, not {self.diversity_penalty}")
        _check_length_penalty(self.length_penalty)
        if self.score_over not in get_args(TextScoreOver):
            raise ConfigError(f"score_over must be 'explanations' or 'vocabulary', not {self.score_over!r}")
        if self.max_length < 2 or self.min_length > self.max_length:
            raise ConfigError(
                f"max_length ({self.max_length}) must be at least 2 and not below min_length ({self.min_length})"
            )

    @property
    def computed_groups(self) -> int:
        """Groups that are really searched."""
        return self.groups if self.diversity_penalty > 0 else 1

    @property
    def beams_per_group(self) -> int:
        """Width of one group."""
        return self.beams // self.groups
