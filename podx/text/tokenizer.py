"""The sentencepiece model of a T5, reduced to what podx needs of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from podx.errors import TokenizerError


class Tokenizer:
    """Pieces of text by a sentencepiece model.

    Segmentation never crosses white space, so the tokens of a text are the tokens of its words one after another;
    podx relies on that to cache the tokens of each id.

    Attributes:
        path: the model file.
        vocab_size: number of pieces in the model (a T5 may have more rows in its embedding).
        pad_id, eos_id: ids of the padding and end-of-sequence pieces. T5 starts decoding with ``pad_id``.
    """

    def __init__(self, path: Path) -> None:
        """Load the model.

        Raises:
            TokenizerError: the file is missing or damaged, or defines no ``<pad>`` or ``</s>``.
        """
        if not path.is_file():
            raise TokenizerError(
                f"no sentencepiece model at {path}: give its path, or train one with --tokenizer train"
            )
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path} is not a sentencepiece model: {error}") from error
        self.path = path
        self.vocab_size: int = self._processor.get_piece_size()
        self.pad_id: int = self._processor.pad_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        for name, piece_id in (("<pad>", self.pad_id), ("</s>", self.eos_id)):
            if piece_id < 0:
                raise TokenizerError(f"{path} defines no {name} piece: train it with pad_id and eos_id set")

    def piece(self, token: int) -> str:
        """The piece that a token id stands for."""
        return str(self._processor.id_to_piece(token))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of ``text``, without an end-of-sequence token."""
        return tuple(self._processor.encode(text))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return list(self._processor.encode(list(texts))) if texts else []

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; pad, end-of-sequence and ids beyond the model's pieces are dropped."""
        special = {self.pad_id, self.eos_id}
        return str(self._processor.decode([int(i) for i in ids if int(i) not in special and int(i) < self.vocab_size]))
