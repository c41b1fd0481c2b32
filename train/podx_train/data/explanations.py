"""Explanation records: from each review one sentence that explains, split 8:1:1 into training and held-out records.

The sentence holds a feature word; a heuristic finds it, without any model.

1. A review is unescaped, lower-cased and cut into sentences at ``. ! ?`` and line ends.
2. A word is a *feature* when it looks like a noun that reviewers talk about: it is no stop word and no adverb in -ly,
   occurs in at least :data:`MIN_REVIEWS` reviews and in at most :data:`MAX_SHARE` of them, and at least
   :data:`MIN_NOUN_SHARE` of its occurrences (two or more) are a whole noun phrase: right after an article or a
   possessive and right before a function word or the end of the clause ("the strap is", "my strap.").
3. Of a review's sentences of moderate length, the one wins whose feature is the most discriminative: the rarest over
   all reviews, where words below :data:`RARE_SHARE` of the reviews count as equally rare, since the rarest words are
   accidents rather than features. Among equals the sentence nearest to the ideal length wins, then the earliest.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podx.text.tokenizer import Tokenizer
from podx_train.data.folder import Int32Array

EXPLANATION_TOKENS = 20
"""Sub-words of an explanation that are learnt; the rest is cut off."""
MIN_REVIEWS = 3
MAX_SHARE = 0.25
RARE_SHARE = 0.01
MIN_NOUN_SHARE = 0.1
MIN_NOUN_PHRASES = 2
MIN_FEATURE_LETTERS = 3
MIN_WORDS, IDEAL_WORDS, MAX_WORDS = 4, 10, 18  # 18 words are about the 20 sub-words that POD trains on

_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?=\s|[A-Z])|[\r\n]+")
_TOKEN = re.compile(r"[a-z]+(?:['’][a-z]+)?|[^\sa-z]")
_MARKUP = re.compile(r"<[^>]{1,80}>")

_DETERMINERS = "the a an my your his her its our their"
# Words that carry grammar rather than a topic; after a noun they end its phrase.
_FUNCTION_WORDS = """
    this that these those each every any some no another itself whether is are was were be been being am has
    have had do does did will would can could should may might must and or but so because if when while
    although though than as of for with without in on at to from by about into onto over under after before
    between through during against up down out off i you he she it we they me him them us who which what where
    why how not n't too very really just also only even still again here there now then all both more most
    much many few other such same own well isn't aren't wasn't doesn't don't didn't can't won't i'm i've it's
    that's
"""
# Frequent words of reviews that say nothing of the thing reviewed.
_PLAIN_WORDS = """
    thing things something anything everything nothing one ones two lot lots bit way ways time times day days
    week weeks month months year years people person guy guys someone anyone everyone kind sort type reason
    fact point case problem problems issue issues product products item items review reviews reviewer star
    stars amazon seller buy money price order purchase bought best better good great nice perfect bad worst
    new old first last next long little big couple deal opinion half plus purpose top right left rest end
    start side part parts place job work works while course favorite favourite idea need needs use uses used
    using like love feel hand hands wife husband son daughter friend friends family
"""
DETERMINERS = frozenset(_DETERMINERS.split())
FUNCTION_WORDS = DETERMINERS | frozenset(_FUNCTION_WORDS.split())
STOP_WORDS = FUNCTION_WORDS | frozenset(_PLAIN_WORDS.split())


HELD_OUT_SHARE = 0.1  # of all records, for validation and for test each

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True)
class ExplanatorySentence:
    """A sentence of a review and the feature word in it."""

    text: str
    feature: str


def split_sentences(review: str) -> list[str]:
    """Sentences of a review, lower case, single spaces, markup and character references resolved."""
    plain = _MARKUP.sub(" ", html.unescape(review))
    return [" ".join(piece.lower().split()) for piece in _SENTENCE_END.split(plain) if piece.strip()]


def feature_words(reviews: Iterable[str]) -> dict[str, float]:
    """Feature words of a corpus and how discriminative each is: log(reviews / reviews with the word), bounded."""
    documents, occurrences, as_noun = Counter[str](), Counter[str](), Counter[str]()
    count = 0
    for review in reviews:
        tokens = [_TOKEN.findall(sentence) for sentence in split_sentences(review)]
        if not tokens:
            continue
        count += 1
        documents.update({word for sentence in tokens for word in sentence})
        occurrences.update(word for sentence in tokens for word in sentence)
        as_noun.update(word for sentence in tokens for word in _noun_phrases(sentence))
    return {
        word: min(math.log(count / documents[word]), -math.log(RARE_SHARE))
        for word in sorted(as_noun)
        if _is_candidate(word)
        and MIN_REVIEWS <= documents[word] <= MAX_SHARE * count
        and as_noun[word] >= max(MIN_NOUN_PHRASES, MIN_NOUN_SHARE * occurrences[word])
    }


def _is_candidate(word: str) -> bool:
    return word.isalpha() and len(word) >= MIN_FEATURE_LETTERS and word not in STOP_WORDS and not word.endswith("ly")


def _noun_phrases(tokens: Sequence[str]) -> Iterator[str]:
    """Words that are a noun phrase with the determiner before them: a function word or punctuation follows."""
    for place in range(1, len(tokens)):
        after = tokens[place + 1] if place + 1 < len(tokens) else "."
        if tokens[place - 1] in DETERMINERS and (after in FUNCTION_WORDS or not after[0].isalpha()):
            yield tokens[place]


def explanatory_sentence(review: str, features: dict[str, float]) -> ExplanatorySentence | None:
    """The sentence of a review that explains best, or None when none of moderate length holds a feature."""
    best: tuple[tuple[float, int, int], ExplanatorySentence] | None = None
    for place, sentence in enumerate(split_sentences(review)):
        tokens = _TOKEN.findall(sentence)
        length = sum(token[0].isalpha() for token in tokens)
        candidates = [token for token in tokens if token in features]
        if not candidates or not MIN_WORDS <= length <= MAX_WORDS:
            continue
        feature = max(candidates, key=lambda word: features[word])
        merit = (features[feature], -abs(length - IDEAL_WORDS), -place)
        if best is None or merit > best[0]:
            best = (merit, ExplanatorySentence(sentence, feature))
    return best[1] if best else None


def split_explanations(
    users: Int32Array, items: Int32Array, held_out: NDArray[np.int8], keep_leaky: bool, random: np.random.Generator
) -> tuple[NDArray[np.int8], int]:
    """Split records 8:1:1 at random, so that each user and item has a training record where possible.

    A record of a user's validation or test item goes to that split, as its text would tell the model of the held-out
    pair. Where such records alone exceed a tenth, the split is larger than a tenth; the rest then trains.

    Args:
        users: [n] user code of each record.
        items: [n] item code of each record.
        held_out: [n] TRAIN, or the split whose target the record's pair is.
        keep_leaky: split all records alike (the protocol of the paper), held-out pairs in training included.
        random: source of the order.

    Returns:
        TRAIN, VALIDATION or TEST of each record, [n]; and how many records are of a held-out pair.
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
    return split, int((fixed != TRAIN).sum())


def explanation_targets(sentences: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """What is learnt of each explanation: its first :data:`EXPLANATION_TOKENS` tokens, and end of sequence."""
    return [[*tokens[:EXPLANATION_TOKENS], tokenizer.eos_id] for tokens in tokenizer.encode_many(sentences)]
