"""Search over the whole vocabulary, against a plain re-implementation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podx.decoding.options import TextSearchOptions
from podx.decoding.text import Hypothesis, TextSearch, WholeRows
from tests.podx.fakes import EVEN, SHARP, TIED, HashStepper, Logits, PathModel
from tests.podx.references import TextReference

START, EOS = 0, 1


def run(
    options: TextSearchOptions, seeds: list[int], vocabulary: int, logits: Logits = EVEN
) -> tuple[list[list[Hypothesis]], HashStepper]:
    stepper = HashStepper(np.array(seeds, dtype=np.uint64), np.arange(vocabulary), logits)
    return TextSearch(WholeRows(stepper, len(seeds)), len(seeds), options, START, EOS).run(), stepper


def expected(options: TextSearchOptions, seed: int, vocabulary: int, logits: Logits = EVEN) -> list[Hypothesis]:
    reference = TextReference(
        START,
        EOS,
        options.beams_per_group,
        options.computed_groups,
        options.diversity_penalty,
        options.min_length,
        options.max_length,
        options.length_penalty,
        usual_end=not options.exhaustive,
    )
    return [Hypothesis(*pair) for pair in reference.search(PathModel(seed, np.arange(vocabulary), logits))]


@st.composite
def options_of(
    draw: st.DrawFn, groups: st.SearchStrategy[int], penalties: st.SearchStrategy[float]
) -> TextSearchOptions:
    count, max_length = draw(groups), draw(st.integers(2, 6))
    return TextSearchOptions(
        beams=count * draw(st.integers(1, 3)),
        groups=count,
        diversity_penalty=draw(penalties),
        min_length=draw(st.integers(0, max_length)),
        max_length=max_length,
        length_penalty=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0])),
        exhaustive=draw(st.booleans()),
    )


seed_lists = st.lists(st.integers(0, 2**32), min_size=1, max_size=4)
any_logits = st.sampled_from([EVEN, SHARP, TIED])


@settings(max_examples=100)
@given(options_of(st.just(1), st.just(0.0)), seed_lists, st.integers(2, 9), any_logits)
def test_one_group_is_the_beam_search_of_transformers(
    options: TextSearchOptions, seeds: list[int], vocabulary: int, logits: Logits
) -> None:
    found, _ = run(options, seeds, vocabulary, logits)
    assert found == [expected(options, seed, vocabulary, logits) for seed in seeds]


@settings(max_examples=100)
@given(options_of(st.integers(2, 3), st.sampled_from([0.1, 0.5, 3.0])), seed_lists, st.integers(2, 9), any_logits)
def test_several_groups_are_diverse_beam_search(
    options: TextSearchOptions, seeds: list[int], vocabulary: int, logits: Logits
) -> None:
    found, _ = run(options, seeds, vocabulary, logits)
    assert found == [expected(options, seed, vocabulary, logits) for seed in seeds]


@pytest.mark.parametrize(("groups", "diversity"), [(1, 0.0), (2, 0.7)])
def test_wide_vocabularies_go_through_the_block_search(groups: int, diversity: float) -> None:
    vocabulary = 1500  # more blocks than candidates, and no multiple of the block
    options = TextSearchOptions(2 * groups, groups, diversity, min_length=3, max_length=5)
    found, _ = run(options, [11, 12], vocabulary)
    assert found == [expected(options, seed, vocabulary) for seed in (11, 12)]


def test_without_diversity_penalty_one_group_is_computed() -> None:
    options = TextSearchOptions(beams=21, groups=3, diversity_penalty=0.0, min_length=0, max_length=6)
    found, stepper = run(options, [3], vocabulary=40)
    assert max(beams for _, beams in stepper.shapes) == 7
    assert len(found[0]) == 7


def test_the_penalty_keeps_groups_from_saying_the_same() -> None:
    shape = {"beams": 3, "groups": 3, "min_length": 4, "max_length": 6}
    alike, _ = run(TextSearchOptions(**shape, diversity_penalty=1e-6), [8], vocabulary=30)
    apart, _ = run(TextSearchOptions(**shape, diversity_penalty=20.0), [8], vocabulary=30)
    assert len({hypothesis.tokens[0] for hypothesis in alike[0]}) == 1
    assert len({hypothesis.tokens[0] for hypothesis in apart[0]}) == 3


def test_lengths_stay_within_the_limits() -> None:
    options = TextSearchOptions(beams=4, groups=1, min_length=4, max_length=7)
    found, _ = run(options, list(range(20)), vocabulary=6)
    lengths = {len(hypothesis.tokens) + 1 for hypotheses in found for hypothesis in hypotheses}  # start token counted
    assert min(lengths) >= options.min_length and max(lengths) <= options.max_length
    assert all(EOS not in hypothesis.tokens for hypotheses in found for hypothesis in hypotheses)


def test_users_who_are_done_leave_the_batch() -> None:
    options = TextSearchOptions(beams=2, groups=1, min_length=0, max_length=40, length_penalty=0.0)
    seeds = list(range(8))
    found, stepper = run(options, seeds, vocabulary=4)
    rows = [rows for rows, _ in stepper.shapes]
    assert rows == sorted(rows, reverse=True) and rows[-1] < rows[0]
    assert found == [run(options, [seed], vocabulary=4)[0][0] for seed in seeds]


def test_a_usual_search_takes_fewer_steps_than_an_exhaustive_one() -> None:
    usual = TextSearchOptions(beams=2, groups=1, min_length=0, max_length=40)
    (_, few), (_, many) = (run(one, [3], 4, SHARP) for one in (usual, replace(usual, exhaustive=True)))
    assert len(few.shapes) < len(many.shapes)
