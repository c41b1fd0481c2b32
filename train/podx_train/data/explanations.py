"""Explanation records: one per review, split 8:1:1, with those of held-out pairs kept out of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podx_train.data.sentences import ExplanatorySentence, explanatory_sentence, feature_words

HELD_OUT_SHARE = 0.1  # of all records, for validation and for test each

TRAIN, VALIDATION, TEST = 0, 1, 2

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ExplanationSplit:
    """``split`` [n]: TRAIN, VALIDATION or TEST of each record; ``kept_out``: records whose pair is held out."""

    split: NDArray[np.int8]
    kept_out: int


def explain_reviews(reviews: Sequence[str], chosen: Sequence[int]) -> list[ExplanatorySentence | None]:
    """The explanatory sentence of each chosen review, None where there is none; all reviews tell what features are."""
    features = feature_words(reviews)
    return [explanatory_sentence(reviews[place], features) for place in chosen]


def split_explanations(
    users: Int32Array, items: Int32Array, held_out: NDArray[np.int8], keep_leaky: bool, random: np.random.Generator
) -> ExplanationSplit:
    """Split records 8:1:1 at random, so that each user and item has a training record where possible.

    A record of a user's validation or test item goes to that split, as its text would tell the model of the held-out
    pair. Where such records alone exceed a tenth, the split is larger than a tenth; the rest then trains.

    Args:
        users: [n] user code of each record.
        items: [n] item code of each record.
        held_out: [n] TRAIN, or the split whose target the record's pair is.
        keep_leaky: split all records alike (the protocol of the paper), held-out pairs in training included.
        random: source of the order.
    """
    fixed = np.zeros_like(held_out) if keep_leaky else held_out
    split = fixed.copy()
    order = random.permutation(np.flatnonzero(fixed == TRAIN))
    needed = np.zeros(len(order), dtype=np.bool_)
    for ids in (users[order], items[order]):
        needed[np.unique(ids, return_index=True)[1]] = True
    free = order[~needed]
    share = round(HELD_OUT_SHARE * len(users))
    for part in (TEST, VALIDATION):
        taken = max(0, share - int((fixed == part).sum()))
        split[free[:taken]] = part
        free = free[taken:]
    return ExplanationSplit(split, int((fixed != TRAIN).sum()))
