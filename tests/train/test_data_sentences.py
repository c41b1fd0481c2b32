"""The heuristic that picks one explanatory sentence from a review."""

from __future__ import annotations

import pytest

from podx_train.data.explanations import MAX_WORDS, explanatory_sentence, feature_words, split_sentences

CORPUS = [
    "The strap is soft. I really like it.",
    "My strap broke in a week! The buckle is fine.",
    "A strap, a buckle and that was it.",
    "The buckle on it shines quickly.",
    "Works as it should. The pouch is small.",
    "I gave it the pouch, the pouch.",
    "Nothing to say about the pouch.",
    *(f"Arrived on day {n} and i play it often." for n in range(9)),
]


@pytest.mark.parametrize(
    ("review", "sentences"),
    [
        ("It works.  Great!\nYes", ["it works.", "great!", "yes"]),
        ("So affordable.I did not expect it", ["so affordable.", "i did not expect it"]),
        ("It costs 4.50 at amazon.com, e.g. today", ["it costs 4.50 at amazon.com, e.g. today"]),
        ("Tom &amp; Ann&#34;s<br />own", ['tom & ann"s own']),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(review: str, sentences: list[str]) -> None:
    assert split_sentences(review) == sentences


def test_features_are_nouns_that_several_reviews_share() -> None:
    features = feature_words(CORPUS)
    assert set(features) == {"strap", "buckle", "pouch"}
    assert all(weight > 0 for weight in features.values())


def test_words_of_too_many_or_too_few_reviews_are_no_features() -> None:
    everywhere = ["The neck is fine."] * 8
    assert feature_words(everywhere) == {}
    assert "lid" not in feature_words([*CORPUS, "The lid, the lid, the lid.", "The lid."])


def test_rarer_feature_wins_then_length_then_order() -> None:
    features = {"strap": 1.0, "buckle": 2.0}
    review = (
        "The strap is quite soft. My buckle is old now. The buckle of it all has held for years by now. Fine strap."
    )
    best = explanatory_sentence(review, features)
    assert best is not None
    assert best.feature == "buckle"
    assert best.text == "the buckle of it all has held for years by now."
    twin = explanatory_sentence("The strap is very soft. The strap is very hard.", features)
    assert twin is not None
    assert twin.text == "the strap is very soft."


def test_sentences_too_short_or_too_long_do_not_explain() -> None:
    features = {"strap": 1.0}
    assert explanatory_sentence("Nice strap.", features) is None
    assert explanatory_sentence("The strap " + "and more " * MAX_WORDS + "ends.", features) is None
    assert explanatory_sentence("No word of note in here at all.", features) is None
    assert explanatory_sentence("", features) is None
