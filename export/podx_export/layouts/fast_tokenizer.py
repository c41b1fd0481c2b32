"""A sentencepiece model as ``tokenizer.json``, with prompt tokens that it puts before every text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from podx.errors import ExportError

WORD_START = "▁"
MOST_CUTS = 1_000
"""Words that are cut by a pattern; more would make every text slow."""
_proto: Any = sentencepiece_model_pb2  # its classes are made at import, where no type checker sees them
_TRAINER: Any = _proto.TrainerSpec
_PIECE: Any = _proto.ModelProto.SentencePiece


def read_pieces(model: bytes) -> Any:
    """The sentencepiece model as a message.

    Raises:
        ExportError: it has pieces for item codes or bytes, which ``tokenizer.json`` would match otherwise.
    """
    proto = _proto.ModelProto.FromString(model)
    kinds = {piece.type for piece in proto.pieces}
    if proto.trainer_spec.model_type not in (_TRAINER.UNIGRAM, _TRAINER.BPE) or kinds & {
        _PIECE.USER_DEFINED,
        _PIECE.BYTE,
    }:
        raise ExportError(
            "its sentencepiece model has pieces for item codes or bytes, or is neither unigram nor BPE, and "
            "tokenizer.json has no counterpart"
        )
    return proto


def cuts_of(proto: Any, words: Sequence[str], wanted: Sequence[list[int]]) -> str:
    """A pattern of the pieces of those words that ``tokenizers`` would cut otherwise than sentencepiece.

    One adds scores up in float64, the other in float32: of two ways to cut a word that are equally good, such as 8, 888
    and 888, 8, each may take the other.

    Args:
        wanted: what sentencepiece makes of each word.

    Raises:
        ExportError: there are too many of them, or a pattern does not help.
    """
    wrong = _cut_otherwise(make_tokenizer(proto), words, wanted)
    pattern = "|".join(_places([proto.pieces[token].piece for token in tokens]) for tokens in wrong.values())
    if len(wrong) > MOST_CUTS or _cut_otherwise(make_tokenizer(proto, cuts=pattern), words, wanted):
        raise ExportError(
            f"tokenizer.json would cut {len(wrong)} ids otherwise than the model's sentencepiece ({min(wrong)!r} among "
            f"them): export a bundle (--layout bundle), which runs sentencepiece itself"
        )
    return pattern


def _cut_otherwise(tokenizer: Tokenizer, words: Sequence[str], wanted: Sequence[list[int]]) -> dict[str, list[int]]:
    found = tokenizer.encode_batch(list(words), add_special_tokens=False)
    return {word: tokens for word, cut, tokens in zip(words, found, wanted, strict=True) if cut.ids != tokens}


def _places(pieces: Sequence[str]) -> str:
    """Pattern of each piece of one word where it stands in that word."""
    before = accumulate(pieces[:-1], initial="")
    after = (pieces[place + 1 :] for place in range(len(pieces)))
    return "|".join(
        rf"(?<=\A{re.escape(left)}){re.escape(piece)}(?={re.escape(''.join(right))}\z)"
        for left, piece, right in zip(before, pieces, after, strict=True)
    )


def make_tokenizer(proto: Any, prompts: Sequence[str] = (), first: Sequence[str] = (), cuts: str = "") -> Tokenizer:
    """A tokenizer whose ids are those of the pieces, then those of the prompt tokens.

    Args:
        proto: what :func:`read_pieces` gave. prompts: every prompt token. first: those that are put before every text.
        cuts: see :func:`cuts_of`.
    """
    tokenizer = Tokenizer(_model(proto))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    words = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always", split=True)
    apart = [pre_tokenizers.Split(Regex(cuts), "isolated")] if cuts else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words, *apart])
    tokenizer.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always", split=True)
    control = [piece.piece for piece in proto.pieces if piece.type in (_PIECE.CONTROL, _PIECE.UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*control, *prompts)])
    eos = proto.pieces[proto.trainer_spec.eos_id].piece
    put = (*first, eos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", eos],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(put)],
    )
    return tokenizer


def _model(proto: Any) -> models.Model:
    pieces, unknown = proto.pieces, proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == _TRAINER.UNIGRAM:
        return models.Unigram([(piece.piece, piece.score) for piece in pieces], unk_id=unknown)
    known = {piece.piece: number for number, piece in enumerate(pieces)}
    ranked = sorted(known, key=lambda piece: -pieces[known[piece]].score)
    merges = [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    return models.BPE(known, merges, unk_token=pieces[unknown].piece, fuse_unk=True)
