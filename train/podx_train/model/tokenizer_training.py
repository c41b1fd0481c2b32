"""A sentencepiece model learnt from a dataset, for when there is none to reuse."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from itertools import chain

import numpy as np
import sentencepiece

from podx.errors import TokenizerError
from podx.text.templates import DEFAULT_TEMPLATES, ITEM_PREFIX, USER_PREFIX, Task, Template
from podx_train.data.dataset import Dataset

DEFAULT_PIECES = 2048
PAD_ID, EOS_ID, UNKNOWN_ID, NO_ID = 0, 1, 2, -1
"""As in T5's own model; there is no beginning-of-sequence piece."""
REQUIRED_CHARACTERS = "".join(chr(code) for code in range(ord("!"), ord("~") + 1))
"""Every printable ASCII sign has a piece, so that templates written later can be read too."""
LONGEST_PIECE = 24
LONGEST_WORD = 1000
"""Characters; sentencepiece passes over longer words."""

_ITEM_WEIGHT_OF_CATALOG = 1
_TEMPLATE_WEIGHT = 8


def word_counts(dataset: Dataset, templates: Mapping[Task, tuple[Template, ...]]) -> Counter[str]:
    """How often each word occurs in training, roughly: ids, their targets, template words, explanations.

    Only training interactions count, so that a held-out item's popularity does not show in how it is cut.
    """
    counts: Counter[str] = Counter()
    popularity = np.bincount(dataset.items[dataset.train_mask], minlength=dataset.item_count + 1)
    numbered = dataset.item_count if dataset.item_codes is None else 0  # codes become pieces without training
    for item in range(1, numbered + 1):
        weight = _ITEM_WEIGHT_OF_CATALOG + int(popularity[item])
        counts[f"{ITEM_PREFIX}{item}"] += weight
        counts[str(item)] += weight
    counts.update(f"{USER_PREFIX}{user}" for user in range(1, dataset.user_count + 1))
    for template in chain.from_iterable(templates.values()):
        for word in template.words:
            if not word.startswith("{"):
                counts[word] += _TEMPLATE_WEIGHT
    for record in dataset.explanations["train"]:
        counts.update(word for word in record.explanation.split() if len(word) <= LONGEST_WORD)
    return counts


def train_tokenizer(
    dataset: Dataset, pieces: int = DEFAULT_PIECES, templates: Mapping[Task, tuple[Template, ...]] = DEFAULT_TEMPLATES
) -> bytes:
    """Train a byte-pair model on the words of a dataset; the same data always gives the same model.

    Digits are not kept apart from the letters before them, so that a small catalog's items become single pieces and
    inputs stay short. Where the words yield fewer pieces than asked for, the model has as many as they yield.

    Args:
        pieces: size of the vocabulary, special pieces included.

    Returns:
        The model file's bytes.

    Raises:
        TokenizerError: ``pieces`` is too small for the characters that occur.
    """
    counts = word_counts(dataset, templates)
    try:
        return _train(counts, pieces)
    except RuntimeError as error:
        most = _most_pieces(str(error))
        if most is None or most >= pieces:
            raise TokenizerError(
                f"no tokeniser of {pieces} pieces can be trained on this data ({str(error).strip()}): it needs a piece "
                f"for every character that occurs, so ask for more with --pieces, or give a model with --tokenizer FILE"
            ) from error
    return _train(counts, most)


def _train(counts: Counter[str], pieces: int) -> bytes:
    # tab-separated word and count; sorted, so that equal data means an equal file
    lines = [f"{word}\t{count}" for word, count in sorted(counts.items()) if "\t" not in word]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=1.0,
        required_chars=REQUIRED_CHARACTERS,
        split_by_number=False,
        split_by_unicode_script=False,
        max_sentencepiece_length=LONGEST_PIECE,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNKNOWN_ID,
        bos_id=NO_ID,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _most_pieces(message: str) -> int | None:
    """The largest vocabulary the corpus allows, which sentencepiece names when asked for more."""
    _, marker, tail = message.partition("value <= ")
    digits = tail.split(".")[0]
    return int(digits) if marker and digits.isdigit() else None
