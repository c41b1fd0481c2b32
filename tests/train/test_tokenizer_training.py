from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from podx.errors import TokenizerError
from podx.text.templates import DEFAULT_TEMPLATES
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.model.tokenizer_training import REQUIRED_CHARACTERS, train_tokenizer, word_counts


@pytest.fixture
def train(tmp_path: Path):
    def train(dataset: Dataset, pieces: int) -> Tokenizer:
        path = tmp_path / "spiece.model"
        path.write_bytes(train_tokenizer(dataset, pieces))
        return Tokenizer(path)

    return train


def test_special_pieces_are_those_of_t5(train, world) -> None:
    tokenizer = train(world, 160)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 160


def test_everything_a_record_can_hold_is_known(train, world) -> None:
    tokenizer = train(world, 130)
    words = [f"user_{u}" for u in range(1, 200)] + [f"item_{i}" for i in range(1, 2000)]
    words += [w for wordings in DEFAULT_TEMPLATES.values() for t in wordings for w in t.words if "{" not in w]
    words += list(REQUIRED_CHARACTERS) + world.explanations["train"][0].explanation.split()
    assert not any(tokenizer.unk_id in ids for ids in tokenizer.encode_many(words))
    assert tokenizer.decode(tokenizer.encode("item_77 user_8")) == "item_77 user_8"


def test_characters_of_explanations_are_covered(train, world) -> None:
    records = [ExplanationRecord(1, 1, "très 美しい", "x")]
    dataset = dataclasses.replace(world, explanations={"train": records, "val": [], "test": []})
    assert train(dataset, 200).unk_id not in train(dataset, 200).encode("sè美い")


def test_same_data_same_model(world) -> None:
    assert train_tokenizer(world, 200) == train_tokenizer(world, 200)


def test_a_small_corpus_gives_a_smaller_vocabulary(train, world) -> None:
    tokenizer = train(world, 30_000)
    assert 160 < tokenizer.vocab_size < 3_000
    assert len(tokenizer.encode("77")) == 1


def test_too_few_pieces(world) -> None:
    with pytest.raises(TokenizerError, match="--pieces"):
        train_tokenizer(world, 20)


def test_words_are_weighted_by_training_interactions_alone(world) -> None:
    counts = word_counts(world, DEFAULT_TEMPLATES)
    trained = int((world.items[world.train_mask] == 5).sum())
    assert counts["5"] == counts["item_5"] == trained + 1
    assert counts["plays"] == len(world.explanations["train"])
