"""Items written as codes: one token for each code, in inputs and as targets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from transformers import T5Config, T5ForConditionalGeneration

from podx.errors import DataError, TokenizerError
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.model.item_tokens import code_pieces, with_codes
from podx_train.model.tokenizer_training import train_tokenizer
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model


def _codes(count: int) -> tuple[tuple[str, ...], ...]:
    """Two or three codes an item; the same name is used as first and as later code."""
    return tuple((f"<a_{n % 7}>", f"<a_{n // 7}>", *(("<x_0>",) if n % 5 == 0 else ())) for n in range(count))


@pytest.fixture(scope="module")
def coded(world: Dataset) -> Dataset:
    return dataclasses.replace(world, item_codes=_codes(world.item_count))


@pytest.fixture(scope="module")
def coded_tokenizer(coded: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("coded") / "spiece.model"
    path.write_bytes(with_codes(train_tokenizer(coded, 160), coded.item_codes))
    return Tokenizer(path)


def test_an_item_is_as_many_tokens_as_codes_everywhere(coded: Dataset, coded_tokenizer: Tokenizer) -> None:
    texts = coded.item_texts
    encoder = InputEncoder(coded_tokenizer, lambda number: texts[number - 1], item_prefix="")
    for number in range(1, coded.item_count + 1):
        target = coded_tokenizer.encode(texts[number - 1])
        assert len(target) == len(coded.item_codes[number - 1])
        read = encoder.encode(Task.SEQUENTIAL, 1, [number])
        assert tuple(read.input_ids[read.whole_word_ids == 2]) == target
        assert coded_tokenizer.decode(target) == texts[number - 1]


def test_other_words_are_cut_as_before(coded: Dataset, coded_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "plain.model"
    path.write_bytes(train_tokenizer(coded, 160))
    words = [f"user_{n}" for n in range(1, coded.user_count + 1)]
    assert Tokenizer(path).encode_many(words) == coded_tokenizer.encode_many(words)


def test_the_same_name_first_and_later_is_two_pieces(coded: Dataset) -> None:
    pieces = code_pieces(coded.item_codes)
    assert len(pieces) == len(set(pieces))
    assert {"▁<a_0>", "<a_0>"} <= set(pieces)


def test_codes_that_the_tokeniser_cannot_keep_are_refused(coded: Dataset) -> None:
    model = train_tokenizer(coded, 160)
    with pytest.raises(TokenizerError, match="codes"):
        with_codes(model, [("a b", "<c>")])  # a space parts words
    with pytest.raises(TokenizerError, match="sentencepiece"):
        with_codes(b"\xff\xff\xff", [("<a>",)])


def test_codes_survive_the_dataset_folder(coded: Dataset, tmp_path: Path) -> None:
    coded.save(tmp_path / "data")
    assert Dataset.load(tmp_path / "data").item_codes == coded.item_codes
    (tmp_path / "data" / "item_codes.json").write_text('{"0": ["<a>"]}')
    with pytest.raises(DataError, match="item number 2"):
        Dataset.load(tmp_path / "data")


def test_every_item_needs_codes(world: Dataset) -> None:
    with pytest.raises(DataError, match="every item"):
        dataclasses.replace(world, item_codes=_codes(3))


def test_a_backbone_gains_rows_for_the_codes(coded: Dataset, tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    plain = train_tokenizer(dataclasses.replace(coded, item_codes=None), 160)
    (tmp_path / "backbone" / "spiece.model").write_bytes(plain)
    rows = Tokenizer(tmp_path / "backbone" / "spiece.model").vocab_size
    config = T5Config(vocab_size=rows, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    backbone = T5ForConditionalGeneration(config)
    backbone.save_pretrained(tmp_path / "backbone")
    options = TrainOptions(epochs=0, device="cpu")
    train_model(coded, tmp_path / "checkpoint", options, Source(backbone=str(tmp_path / "backbone")))
    loaded = load_checkpoint(tmp_path / "checkpoint")
    grown = loaded.model.backbone.shared.weight.detach().numpy()
    assert len(grown) >= rows + len(code_pieces(coded.item_codes))
    np.testing.assert_array_equal(grown[:rows], backbone.shared.weight.detach().numpy())
    assert loaded.config.item_prefix == ""
    assert loaded.catalog().text(1) == "".join(coded.item_codes[0])
