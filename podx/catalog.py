"""Items and users: raw ids ⇄ numbers ⇄ tokens."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.encoding import item_target_tokens
from podx.errors import CatalogError
from podx.tokenizer import Tokenizer
from podx.trie import Trie

ENCODING = "utf-8"


def _encoded(raw: str) -> bytes | None:
    """Bytes of an id; None where no table can hold it: no text, half a surrogate pair, a NUL (numpy strips it)."""
    try:
        return raw.encode(ENCODING) if isinstance(raw, str) and raw and "\0" not in raw else None
    except UnicodeEncodeError:
        return None


class IdTable:
    """Raw ids and their numbers 1 … n, as a sorted byte table: no Python object per id.

    Args:
        raw_ids: raw id of number 1, 2, …; bytes [n].
    """

    def __init__(self, raw_ids: npt.NDArray[np.bytes_], what: str) -> None:
        self._raw = raw_ids
        self._order = np.argsort(raw_ids, kind="stable")
        self._sorted = raw_ids[self._order]
        repeated = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(repeated):
            raise CatalogError(f"{what} id {self._sorted[repeated[0]].decode(ENCODING)!r} occurs more than once")

    @classmethod
    def of(cls, raw_ids: Sequence[str], what: str) -> IdTable:
        """Table of ids given as text.

        Raises:
            CatalogError: an id is empty, holds a NUL character or half a character, or occurs twice.
        """
        encoded = []
        for number, raw in enumerate(raw_ids, start=1):
            key = _encoded(raw)
            if key is None:
                raise CatalogError(
                    f"the id {raw!r} of {what} number {number} cannot be stored: give it one that is not empty and "
                    f"holds neither a NUL character nor half a surrogate pair"
                )
            encoded.append(key)
        return cls(np.array(encoded, dtype=np.bytes_) if encoded else np.empty(0, dtype="S1"), what)

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def raw_ids(self) -> npt.NDArray[np.bytes_]:
        """Raw id of number 1, 2, …; bytes [n]."""
        return self._raw

    def number(self, raw: str) -> int | None:
        """Number of a raw id, or None."""
        key = _encoded(raw)
        # a longer key cannot be there, and comparing with one would make numpy copy the whole table
        if key is None or len(key) > self._sorted.dtype.itemsize:
            return None
        position = int(np.searchsorted(self._sorted, np.bytes_(key)))
        if position == len(self._sorted) or self._sorted[position] != key:
            return None
        return int(self._order[position]) + 1

    def raw(self, number: int) -> str:
        """Raw id of a number between 1 and n."""
        return bytes(self._raw[number - 1]).decode(ENCODING)


@dataclass(frozen=True)
class Catalog:
    """The items a model can recommend.

    Attributes:
        items: raw ids of items 1 … n.
        tokens: int32 [total], target tokens of all items one after another, without end of sequence.
        offsets: int64 [n + 1], where each item's tokens begin.
        texts: how each item is written (without the ``item_`` prefix); None: as its number.
    """

    items: IdTable
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    texts: npt.NDArray[np.bytes_] | None = None

    @classmethod
    def create(cls, raw_ids: Sequence[str], tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> Catalog:
        """Tokenise items; ``texts`` when they are not written as their numbers.

        Raises:
            CatalogError: ids repeat or are empty.
            TokenizerError: an item cannot be written with this tokeniser.
        """
        written = [str(number) for number in range(1, len(raw_ids) + 1)] if texts is None else list(texts)
        if len(written) != len(raw_ids):
            raise CatalogError(f"{len(written)} item texts for {len(raw_ids)} items: give one text per item")
        token_lists = item_target_tokens(tokenizer, written)
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in token_lists])]).astype(np.int64)
        tokens = np.array([token for tokens in token_lists for token in tokens], dtype=np.int32)
        encoded = None if texts is None else np.array([t.encode(ENCODING) for t in texts], dtype=np.bytes_)
        return cls(IdTable.of(raw_ids, "item"), tokens, offsets, encoded)

    def __len__(self) -> int:
        return len(self.items)

    def text(self, number: int) -> str:
        """How item ``number`` is written."""
        return str(number) if self.texts is None else bytes(self.texts[number - 1]).decode(ENCODING)

    def target(self, number: int) -> npt.NDArray[np.int32]:
        """Target tokens of an item, int32 [tokens], without end of sequence."""
        return self.tokens[self.offsets[number - 1] : self.offsets[number]]

    @cached_property
    def trie(self) -> Trie:
        """Prefix tree over the items' tokens, built on first use."""
        return Trie.build(self.tokens, self.offsets)

    def save(self, path: Path) -> None:
        """Write as ``.npz`` without pickled objects."""
        arrays = {"raw_ids": self.items.raw_ids, "tokens": self.tokens, "offsets": self.offsets}
        if self.texts is not None:
            arrays["texts"] = self.texts
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Catalog:
        """Read what :meth:`save` wrote.

        Raises:
            CatalogError: the file is not such a catalogue.
        """
        arrays = read_arrays(path, ("raw_ids", "tokens", "offsets"))
        return cls(IdTable(arrays["raw_ids"], "item"), arrays["tokens"], arrays["offsets"], arrays.get("texts"))


def read_arrays(path: Path, needed: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``.npz`` file; no pickle is read.

    Raises:
        CatalogError: the file is missing, damaged, or lacks a needed array.
    """
    try:
        with zipfile.ZipFile(path):  # numpy reads other formats too, and some of them as something else
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise CatalogError(f"{path} is not a table written by podx ({error}): copy it anew, or export again") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise CatalogError(f"{path} is not a table written by podx (it lacks {', '.join(missing)}): export again")
    return arrays
