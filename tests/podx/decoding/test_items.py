"""Search inside the trie, against exhaustive scoring and against a plain re-implementation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podx.bundle.trie import Trie
from podx.decoding.item_filter import ItemFilter
from podx.decoding.items import ItemResults, ItemSearch, TokenColumns
from podx.decoding.options import ItemSearchOptions
from tests.podx.fakes import EVEN, SHARP, TIED, HashStepper, Logits, PathModel
from tests.podx.references import Tokens, exhaustive, item_beam_search, trie_arrays

START, EOS, VOCABULARY = 0, 1, 12
FIRST_TOKEN = 3
PENALTIES = (0.0, 0.5, 1.0, 2.0, -1.0)


@dataclass(frozen=True)
class Case:
    """A small catalog and a batch of users with their limits."""

    items: tuple[Tokens, ...]
    seeds: tuple[int, ...]
    denied: tuple[frozenset[int], ...]
    allowed: tuple[frozenset[int] | None, ...]
    penalty: float
    beams: int
    k: int
    logits: Logits
    whole_vocabulary: bool

    def permitted(self, user: int) -> dict[int, Tokens]:
        allowed = self.allowed[user]
        return {
            number: tokens
            for number, tokens in enumerate(self.items, start=1)
            if number not in self.denied[user] and (allowed is None or number in allowed)
        }

    def model(self, user: int) -> PathModel:
        return PathModel(self.seeds[user], self.scored_tokens(), self.logits)

    def scored_tokens(self) -> np.ndarray:
        used = {EOS, *(token for item in self.items for token in item)}
        return np.arange(VOCABULARY) if self.whole_vocabulary else np.array(sorted(used))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    token = st.integers(FIRST_TOKEN, draw(st.integers(FIRST_TOKEN + 1, FIRST_TOKEN + 5)))
    items = draw(st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), min_size=1, max_size=16, unique=True))
    some = st.frozensets(st.integers(1, len(items)))
    users = draw(st.integers(1, 4))
    return Case(
        items=tuple(items),
        seeds=tuple(draw(st.lists(st.integers(0, 2**32), min_size=users, max_size=users))),
        denied=tuple(draw(st.lists(some, min_size=users, max_size=users))),
        allowed=tuple(draw(st.lists(st.none() | some, min_size=users, max_size=users))),
        penalty=draw(st.sampled_from(PENALTIES)),
        beams=draw(st.integers(1, 5)),
        k=draw(st.integers(1, 5)),
        logits=draw(st.sampled_from([EVEN, SHARP, TIED])),
        whole_vocabulary=draw(st.booleans()),
    )


def search(case: Case, beams: int, users: list[int] | None = None) -> tuple[ItemResults, HashStepper]:
    users = list(range(len(case.seeds))) if users is None else users
    trie = Trie.build(*trie_arrays(case.items))
    columns = (TokenColumns.of_vocabulary if case.whole_vocabulary else TokenColumns.of_catalog)(trie, EOS)
    numbers = [np.array(sorted(case.denied[user]), dtype=np.int64) for user in users]
    allowed = [case.allowed[user] for user in users]
    only = [None if items is None else np.array(sorted(items), dtype=np.int64) for items in allowed]
    seeds = np.array([case.seeds[user] for user in users], dtype=np.uint64)
    tokens = np.arange(VOCABULARY) if columns.output_tokens is None else columns.output_tokens
    stepper = HashStepper(seeds, tokens, case.logits)
    options = ItemSearchOptions(beams=beams, length_penalty=case.penalty)
    limits = ItemFilter(trie, numbers, only)
    return ItemSearch(stepper, trie, columns, limits, options, START, case.k).run(), stepper


def answers(found: ItemResults, row: int) -> list[tuple[int, float]]:
    pairs = zip(found.items[row].tolist(), found.scores[row].tolist(), strict=True)
    return [(item, score) for item, score in pairs if item]


@settings(max_examples=80)
@given(cases())
def test_with_enough_beams_the_search_is_exhaustive(case: Case) -> None:
    found, _ = search(case, beams=len(case.items))
    for user in range(len(case.seeds)):
        expected = exhaustive(case.model(user), case.permitted(user), START, EOS, case.penalty)[: case.k]
        got = answers(found, user)
        assert [score for _, score in got] == [score for _, score in expected]
        if case.logits is not TIED:
            assert [item for item, _ in got] == [item for item, _ in expected]


@settings(max_examples=120)
@given(cases())
def test_with_few_beams_it_is_the_beam_search_of_transformers(case: Case) -> None:
    found, _ = search(case, case.beams)
    for user in range(len(case.seeds)):
        beams = max(case.beams, case.k)
        expected = item_beam_search(case.model(user), case.permitted(user), START, EOS, beams, case.penalty)
        assert answers(found, user) == expected[: case.k]


@settings(max_examples=80)
@given(cases())
def test_answers_are_permitted_distinct_and_as_many_as_can_be(case: Case) -> None:
    found, _ = search(case, case.beams)
    assert found.items.shape == found.scores.shape == (len(case.seeds), case.k)
    for user in range(len(case.seeds)):
        items = [item for item, _ in answers(found, user)]
        permitted = case.permitted(user)
        assert len(items) == len(set(items)) == min(case.k, len(permitted))
        assert set(items) <= set(permitted)


@settings(max_examples=60)
@given(cases())
def test_a_user_alone_gets_what_it_gets_in_a_batch(case: Case) -> None:
    together, _ = search(case, case.beams)
    for user in range(len(case.seeds)):
        alone, _ = search(case, case.beams, [user])
        assert answers(alone, 0) == answers(together, user)


@pytest.fixture
def ragged_case() -> Case:
    """One user may have items of depth 4, another only one of depth 1, a third nothing at all."""
    items = ((3,), (4, 3), (4, 4, 3), (4, 4, 4, 3), (4, 4, 4, 4))
    return Case(
        items,
        seeds=(5, 6, 7),
        denied=(frozenset(), frozenset(), frozenset(range(1, 6))),
        allowed=(None, frozenset({1}), None),
        penalty=0.0,
        beams=3,
        k=5,
        logits=EVEN,
        whole_vocabulary=False,
    )


def test_finished_users_and_beams_are_not_computed(ragged_case: Case) -> None:
    _, stepper = search(ragged_case, ragged_case.beams)
    rows, beams = zip(*stepper.shapes, strict=True)
    assert rows == (3, 2, 1, 1, 1)  # the user without items goes after one step, the one with item 1 after two
    assert beams == (1, 2, 2, 2, 2)  # as many as the trie has open, not as many as were asked for


def test_nothing_permitted_means_no_answers(ragged_case: Case) -> None:
    found, _ = search(ragged_case, ragged_case.beams, [2])
    assert not found.items.any()
    assert np.isneginf(found.scores).all()


class Scripted:
    """Gives every beam the log-probabilities written down for its step; 0 for all tokens after the last of them."""

    def __init__(self, *steps: dict[int, float], tokens: np.ndarray) -> None:
        self._script, self._tokens = list(steps), tokens.tolist()
        self.steps = 0

    def step(self, tokens: np.ndarray, distance: np.ndarray) -> np.ndarray:
        row = self._script[self.steps] if self.steps < len(self._script) else dict.fromkeys(self._tokens, 0.0)
        self.steps += 1
        columns = np.array([row.get(token, -50.0) for token in self._tokens], dtype=np.float32)
        return np.broadcast_to(columns, (*tokens.shape, len(columns)))

    def keep(self, users: np.ndarray) -> None:
        raise AssertionError("the only user cannot be taken out")


def best_of_script(items: list[Tokens], penalty: float, *steps: dict[int, float]) -> tuple[int, float, int]:
    """The best item, its score, and how many steps it took."""
    trie = Trie.build(*trie_arrays(items))
    columns = TokenColumns.of_catalog(trie, EOS)
    assert columns.output_tokens is not None
    stepper = Scripted(*steps, tokens=columns.output_tokens)
    limits = ItemFilter(trie, [np.zeros(0, dtype=np.int64)], [None])
    options = ItemSearchOptions(beams=2, length_penalty=penalty)
    found = ItemSearch(stepper, trie, columns, limits, options, START, k=1).run()
    return int(found.items[0, 0]), float(found.scores[0, 0]), stepper.steps


def test_the_search_ends_once_no_beam_can_better_the_answers() -> None:
    items = [(3,), (4, 4, 4, 4, 4, 4)]
    assert best_of_script(items, 0.0, {3: 0.0, 4: -2.0}) == (1, 0.0, 2)


def test_a_beam_that_only_its_length_can_save_is_not_struck_out() -> None:
    """-3 ÷ 5 beats -1.6 ÷ 2, though -3 ÷ 3, what the beam would score if it ended next, does not."""
    item, score, steps = best_of_script([(3,), (4, 4, 4, 4)], 1.0, {3: -1.6, 4: -3.0})
    assert (item, steps) == (2, 5) and score == pytest.approx(-0.6)


def test_with_a_negative_penalty_a_beam_that_ends_soon_is_not_struck_out() -> None:
    """-1.2 × 3 beats -2 × 2, though -1.2 × 5, what the beam would score at the greatest length, does not."""
    item, score, _ = best_of_script([(3,), (4, 4), (4, 4, 4, 4)], -1.0, {3: -2.0, 4: -1.2})
    assert item == 2 and score == pytest.approx(-3.6)


def test_columns_of_the_catalog_hold_its_tokens_and_the_end() -> None:
    trie = Trie.build(*trie_arrays([(7, 3), (9,)]))
    columns = TokenColumns.of_catalog(trie, EOS)
    assert columns.output_tokens is not None and columns.output_tokens.tolist() == [EOS, 3, 7, 9]
    assert columns.token(columns.edge).tolist() == trie.edge_token.tolist()
    assert columns.token(np.array([columns.end])).tolist() == [EOS]
    whole = TokenColumns.of_vocabulary(trie, EOS)
    assert whole.output_tokens is None and whole.end == EOS
    assert whole.token(whole.edge).tolist() == trie.edge_token.tolist()
