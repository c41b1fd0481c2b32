"""The sentencepiece model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece

from podx.errors import TokenizerError
from podx.text.tokenizer import Tokenizer


def test_special_pieces_are_where_t5_has_them(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)


def test_encoding_goes_word_by_word(tokenizer: Tokenizer) -> None:
    words = ["user_17", "item_9", "coat", "321"]
    assert tokenizer.encode(" ".join(words)) == sum((tokenizer.encode(word) for word in words), ())
    assert tokenizer.encode_many(words) == [list(tokenizer.encode(word)) for word in words]
    assert tokenizer.encode_many([]) == []


def test_decoding_drops_what_is_no_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a nice coat")
    assert tokenizer.decode([tokenizer.pad_id, *tokens, tokenizer.vocab_size, tokenizer.eos_id]) == "a nice coat"


def test_t5_writes_ids_as_the_project_relies_on(t5_tokenizer: Tokenizer) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(t5_tokenizer.path))
    assert [pieces.id_to_piece(i) for i in t5_tokenizer.encode("item_1234")] == ["▁item", "_", "12", "34"]
    assert [pieces.id_to_piece(i) for i in t5_tokenizer.encode("1234")] == ["▁12", "34"]
    assert (t5_tokenizer.pad_id, t5_tokenizer.eos_id, t5_tokenizer.vocab_size) == (0, 1, 32000)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no sentencepiece model at"):
        Tokenizer(tmp_path / "spiece.model")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 64])
def test_a_damaged_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"spiece\.model"):
        Tokenizer(path)


def test_a_model_without_padding_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few words only"] * 5),
        model_writer=model,
        model_type="char",
        hard_vocab_limit=False,
        pad_id=-1,
        minloglevel=2,
    )
    path = tmp_path / "spiece.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(TokenizerError, match=r"<pad>.*pad_id"):
        Tokenizer(path)
