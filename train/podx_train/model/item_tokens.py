"""Item codes as tokens: each code becomes one user-defined piece of a sentencepiece model.

An item written as codes is as many tokens as it has codes, in inputs and as a target: the first code's piece begins
with sentencepiece's mark of a word's start, so no piece is spent on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from podx.errors import TokenizerError

Codes = Sequence[Sequence[str]]
WORD_START = "▁"
_proto: Any = sentencepiece_model_pb2  # its classes are made at import, where no type checker sees them
_USER_DEFINED = _proto.ModelProto.SentencePiece.USER_DEFINED


def code_pieces(codes: Codes) -> list[str]:
    """The pieces that items written as ``codes`` need, each once, sorted by place in the item and then by first use."""
    firsts = dict.fromkeys(WORD_START + of_item[0] for of_item in codes)
    others = dict.fromkeys(code for of_item in codes for code in of_item[1:])
    return [*firsts, *others]


def with_codes(model: bytes, codes: Codes) -> bytes:
    """A sentencepiece model with a piece for every code, appended to those it has; a piece that is there stays.

    Args:
        model: the model file's bytes.
        codes: codes of each item.

    Raises:
        TokenizerError: ``model`` is no sentencepiece model, or it does not read every item as its codes.
    """
    proto = _proto.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise TokenizerError(f"the tokeniser is no sentencepiece model ({error}): give another") from error
    known = {piece.piece for piece in proto.pieces}
    for piece in code_pieces(codes):
        if piece not in known:
            proto.pieces.add(piece=piece, score=0.0, type=_USER_DEFINED)
    extended = proto.SerializeToString()
    _require_one_token_each(extended, codes)
    return extended


def _require_one_token_each(model: bytes, codes: Codes) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    written = processor.encode(["".join(of_item) for of_item in codes], out_type=str)
    for of_item, pieces in zip(codes, written, strict=True):
        if pieces != [WORD_START + of_item[0], *of_item[1:]]:
            raise TokenizerError(
                f"the tokeniser reads the item codes {' '.join(of_item)} as {' '.join(pieces)}: "
                f"write codes like <a_1>, in signs that the tokeniser's normalisation leaves alone"
            )
