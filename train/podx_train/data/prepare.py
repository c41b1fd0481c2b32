"""From interactions to a dataset: k-core, order of time, numbers, negatives, explanations.

Random choices are made on the input's own codes, before numbers are given: one seed gives the same negatives and the
same explanation split, in terms of raw ids, under every ID scheme, so that schemes can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podx.errors import ConfigError, DataError
from podx.flags import check, option
from podx_train.data.dataset import Dataset
from podx_train.data.explanations import (
    TEST,
    TRAIN,
    VALIDATION,
    explanatory_sentence,
    feature_words,
    split_explanations,
)
from podx_train.data.folder import EXPLANATION_SPLITS, MIN_SEQUENCE, ExplanationRecord, Int32Array
from podx_train.data.interactions import DropReport, Interactions
from podx_train.data.negatives import PAPER_NEGATIVES, negatives_per_user, sample_negatives
from podx_train.data.numbering import IdScheme, Numbering, Sequences, number_ids

# Independent random streams of one seed.
STREAM_TIES, STREAM_IDS, STREAM_TEST, STREAM_VALIDATION, STREAM_EXPLANATIONS = range(5)

NO_SENTENCE_REASON = "review without an explanatory sentence (the interaction is kept)"
EMPTY_REVIEW_REASON = "interaction without review text (the interaction is kept)"
HELD_OUT_REASON = "explanation of a held-out user-item pair (moved to val/test, out of training)"

Stage = Callable[[str], None]


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare a dataset.

    Raises:
        ConfigError: an option is out of its bounds.
    """

    ids: IdScheme = option(IdScheme.TRAIN_FIRST, "How users and items are numbered.")
    min_interactions: int = option(  # k of the k-core; users keep 3 in any case, for leave-one-out
        5, "Users and items with fewer interactions are dropped.", least=1
    )
    seed: int = option(0, "Seed of every random choice.", least=0)
    tie_shuffle: bool = option(False, "Shuffle a user's interactions of the same timestamp.")
    negatives: int = option(  # lists are shorter where the catalog is too small
        PAPER_NEGATIVES, "Items per negative list for top-N.", least=1
    )
    keep_leaky_explanations: bool = option(
        False,
        "Split explanations as the paper does: held-out pairs may be trained on (a leak).",
        flag="--paper-explanations",
    )

    def __post_init__(self) -> None:
        """Check the numbers."""
        check(self)


@dataclass(frozen=True)
class Prepared:
    """A dataset ready to save, what was dropped on the way, and notes a user should read."""

    dataset: Dataset
    report: DropReport
    notes: tuple[str, ...]


def prepare(
    interactions: Interactions,
    options: PrepareOptions,
    source: dict[str, Any] | None = None,
    stage: Stage | None = None,
) -> Prepared:
    """Make a dataset of interactions.

    Args:
        interactions: from a reader.
        options: see there.
        source: what the data came from; kept in the provenance.
        stage: called with a few words at the start of each step.

    Raises:
        DataError: the k-core filter leaves nothing.
        ConfigError: ``tie_shuffle`` for data without timestamps.
    """
    tell = stage or (lambda _: None)
    tell("filtering")
    kept = core_mask(interactions.users, interactions.items, options.min_interactions)
    report = _with_core_drops(interactions, kept, options.min_interactions)
    tell("ordering")
    rows, sequences = _sequences(interactions, np.flatnonzero(kept), options)
    tell("numbering")
    numbering = number_ids(sequences, options.ids, interactions.numbered, _random(options, STREAM_IDS))
    tell("drawing negatives")
    test, validation, notes = _negatives(sequences, numbering, options)
    tell("choosing explanations")
    explanations, report = _explanations(interactions, rows, sequences, numbering, options, report)
    walk = sequences.take(numbering.users)
    dataset = Dataset(
        items=_numbers(numbering.items)[walk.items],
        offsets=walk.offsets,
        user_ids=_raw_ids(interactions.user_names, interactions.users[rows], numbering.users),
        item_ids=_raw_ids(interactions.item_names, interactions.items[rows], numbering.items),
        test_negatives=test,
        validation_negatives=validation,
        explanations=explanations,
        scheme=options.ids.value,
        provenance={"source": source or {}, "options": asdict(options), "dropped": report.counts},
    )
    return Prepared(dataset, report, notes)


def core_mask(users: Int32Array, items: Int32Array, least: int) -> NDArray[np.bool_]:
    """Which interactions [n] are in the k-core: users and items left have at least ``least`` of them (users 3 or more).

    Removing a user can leave an item with too few and the other way round, so the filter repeats until nothing changes.
    """
    keep = np.ones(len(users), dtype=np.bool_)
    while True:
        of_user, of_item = np.bincount(users[keep], minlength=1), np.bincount(items[keep], minlength=1)
        rows = np.flatnonzero(keep)
        good = (of_user[users[rows]] >= max(least, MIN_SEQUENCE)) & (of_item[items[rows]] >= least)
        if good.all():
            return keep
        keep[rows[~good]] = False


def _with_core_drops(interactions: Interactions, kept: NDArray[np.bool_], least: int) -> DropReport:
    """The reader's report with what the k-core filter drops."""
    if not kept.any():
        raise DataError(
            f"no user and item is left with at least {least} interactions (users: {max(least, MIN_SEQUENCE)}) of "
            f"{len(interactions)} read; lower --min-interactions or give more data"
        )
    report = interactions.report
    for what, codes, names in (
        ("users", interactions.users, interactions.user_names),
        ("items", interactions.items, interactions.item_names),
    ):
        gone = np.setdiff1d(codes, codes[kept])
        report = report.plus(f"{what} with too few interactions", len(gone), (repr(names[code]) for code in gone[:3]))
    return report.plus("interactions of those users and items", int((~kept).sum()))


def _random(options: PrepareOptions, stream: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, stream])


def _sequences(
    interactions: Interactions, rows: NDArray[np.int64], options: PrepareOptions
) -> tuple[NDArray[np.int64], Sequences]:
    """Rows by user in order of time, and the same as sequences of codes without gaps."""
    if options.tie_shuffle and interactions.timestamps is None:
        raise ConfigError("--tie-shuffle needs timestamps, which a numbered sequence file does not have: leave it out")
    times = np.zeros(len(rows)) if interactions.timestamps is None else interactions.timestamps[rows]
    ties = _random(options, STREAM_TIES).random(len(rows)) if options.tie_shuffle else np.zeros(len(rows))
    rows = rows[np.lexsort((rows, ties, times, interactions.users[rows]))]
    users, lengths = np.unique(interactions.users[rows], return_counts=True)
    distinct, codes = np.unique(interactions.items[rows], return_inverse=True)
    offsets = np.zeros(len(users) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(lengths)
    return rows, Sequences(codes.astype(np.int32), offsets, len(distinct))


def _raw_ids(names: list[str], kept: Int32Array, order: NDArray[np.int64]) -> list[str]:
    """Raw ids in order of the numbers; ``order`` counts among the codes that were kept."""
    return [names[code] for code in np.unique(kept)[order].tolist()]


def _numbers(order: NDArray[np.int64]) -> Int32Array:
    """Number (from 1) of each code, given the codes in order of their numbers."""
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    return numbers


def _negatives(
    sequences: Sequences, numbering: Numbering, options: PrepareOptions
) -> tuple[Int32Array | None, Int32Array | None, tuple[str, ...]]:
    """Lists for test and validation, by number, and a note where they had to be shorter."""
    count = negatives_per_user(sequences, options.negatives)
    if count == 0:
        return None, None, ("no negative lists: a user has interacted with every item, so top-N cannot be judged",)
    notes: tuple[str, ...] = ()
    if count < options.negatives:
        notes = (f"negative lists hold {count} items, not {options.negatives}: the catalog is too small for more",)
    numbers = _numbers(numbering.items)
    test, validation = (
        numbers[sample_negatives(sequences, count, _random(options, stream))[numbering.users]]
        for stream in (STREAM_TEST, STREAM_VALIDATION)
    )
    return test, validation, notes


def _held_out(sequences: Sequences) -> NDArray[np.int8]:
    """For each interaction, in order of the sequences: TRAIN, or the split whose target it is."""
    part = np.full(len(sequences.items), TRAIN, dtype=np.int8)
    part[sequences.offsets[1:] - 1] = TEST
    part[sequences.offsets[1:] - 2] = VALIDATION
    return part


def _explanations(
    interactions: Interactions,
    rows: NDArray[np.int64],
    sequences: Sequences,
    numbering: Numbering,
    options: PrepareOptions,
    report: DropReport,
) -> tuple[dict[str, list[ExplanationRecord]], DropReport]:
    """Explanation records by split, and the report with what became of the reviews."""
    result: dict[str, list[ExplanationRecord]] = {split: [] for split in EXPLANATION_SPLITS}
    if interactions.reviews is None:
        return result, report
    features = feature_words(interactions.reviews)
    reviews = [interactions.reviews[row] for row in rows.tolist()]
    found = {place: explanatory_sentence(review, features) for place, review in enumerate(reviews)}
    sentences = {place: sentence for place, sentence in found.items() if sentence is not None}
    empty = sum(not review.strip() for review in reviews)
    report = report.plus(EMPTY_REVIEW_REASON, empty)
    report = report.plus(NO_SENTENCE_REASON, len(rows) - len(sentences) - empty)
    chosen = np.array(list(sentences), dtype=np.int64)
    users, items, held_out = sequences.users[chosen], sequences.items[chosen], _held_out(sequences)[chosen]
    random = _random(options, STREAM_EXPLANATIONS)
    parts, kept_out = split_explanations(users, items, held_out, options.keep_leaky_explanations, random)
    user_numbers, item_numbers = _numbers(numbering.users)[users].tolist(), _numbers(numbering.items)[items].tolist()
    for part, user, item, sentence in zip(parts, user_numbers, item_numbers, sentences.values(), strict=True):
        result[EXPLANATION_SPLITS[part]].append(ExplanationRecord(user, item, sentence.text, sentence.feature))
    return result, report.plus(HELD_OUT_REASON, kept_out)
