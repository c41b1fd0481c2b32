"""Items and users: raw ids ⇄ numbers ⇄ tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.input_words import READ_TOKEN, InputWords, read_tokens
from podx.bundle.tables import TableFile, write_tables
from podx.bundle.trie import Trie
from podx.bundle.trie_tables import read_end_token, read_trie, search_tables, sibling_tables
from podx.errors import CatalogError
from podx.text.inputs import item_target_tokens
from podx.text.tokenizer import Tokenizer

ENCODING = "utf-8"
KEPT_IDS = 32_768
"""Raw ids whose numbers are remembered, and numbers whose raw ids: searching for 100 candidates takes 0.2 ms."""

_ID_TABLES = "ids.ordered", "ids.number_at", "ids.place_of"
TOKENS, OFFSETS, LISTED, TEXTS = "items.tokens", "items.offsets", "items.listed", "items.texts"


def _encoded(raw: str) -> bytes | None:
    """Bytes of an id; None where no table can hold it: no text, half a surrogate pair, a NUL (numpy strips it)."""
    try:
        return raw.encode(ENCODING) if isinstance(raw, str) and raw and "\0" not in raw else None
    except UnicodeEncodeError:
        return None


def _number(ordered: npt.NDArray[np.bytes_], number_at: npt.NDArray[np.int32], raw: str) -> int | None:
    """See :class:`IdTable`."""
    key = _encoded(raw)
    if key is None:
        return None
    place = bisect_left(ordered, key)  # not np.searchsorted, slower for one and letting go of the GIL
    if place == len(ordered) or ordered[place] != key:
        return None
    return int(number_at[place])


def _raw(ordered: npt.NDArray[np.bytes_], place_of: npt.NDArray[np.int32], number: int) -> str:
    """See :class:`IdTable`."""
    return bytes(ordered[place_of[number - 1]]).decode(ENCODING)


class IdTable:
    """Raw ids and their numbers 1 … n, as a sorted byte table: no Python object per id, nothing to build on loading.

    Attributes:
        ordered: raw ids ascending; bytes [n].
        number_at: int32 [n], number of each of ``ordered``. place_of: int32 [n], place in ``ordered`` of number 1, 2, …
    """

    def __init__(self, raw_ids: npt.NDArray[np.bytes_], what: str) -> None:
        """Sort ids, ``raw_ids`` being those of number 1, 2, …

        Raises:
            CatalogError: an id occurs twice.
        """
        order = np.argsort(raw_ids, kind="stable").astype(np.int32)
        self.ordered = raw_ids[order]
        self.number_at = order + np.int32(1)
        self.place_of = np.empty_like(order)
        self.place_of[order] = np.arange(len(order), dtype=np.int32)
        repeated = np.flatnonzero(self.ordered[1:] == self.ordered[:-1])
        if len(repeated):
            raise CatalogError(f"{what} id {self.ordered[repeated[0]].decode(ENCODING)!r} occurs more than once")

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

    @classmethod
    def read(cls, tables: TableFile) -> IdTable:
        """Map what :meth:`tables` gave.

        Raises:
            CatalogError: the file lacks a table.
        """
        table = cls.__new__(cls)
        table.ordered, table.number_at, table.place_of = (tables.map(name) for name in _ID_TABLES)
        return table

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays to store, by name."""
        return dict(zip(_ID_TABLES, (self.ordered, self.number_at, self.place_of), strict=True))

    def __len__(self) -> int:
        return len(self.ordered)

    @property
    def raw_ids(self) -> npt.NDArray[np.bytes_]:
        """Raw id of number 1, 2, …; bytes [n], a copy."""
        return self.ordered[self.place_of]

    def number(self, raw: str) -> int | None:
        """Number of a raw id, or None."""
        known = isinstance(raw, str) and len(raw) <= self.ordered.itemsize  # what is longer is not remembered either
        return self._number(raw) if known else None

    def numbers(self, raw_ids: Sequence[str]) -> list[int | None]:
        """:meth:`number` of each raw id."""
        find, most = self._number, self.ordered.itemsize
        return [find(raw) if isinstance(raw, str) and len(raw) <= most else None for raw in raw_ids]

    @cached_property
    def _number(self) -> Callable[[str], int | None]:
        """The search for a text, which remembers what it found last."""
        return lru_cache(KEPT_IDS)(partial(_number, self.ordered, self.number_at))

    @cached_property
    def raw(self) -> Callable[[int], str]:
        """Raw id of a number between 1 and n; it remembers what it found last."""
        return lru_cache(KEPT_IDS)(partial(_raw, self.ordered, self.place_of))


@dataclass(frozen=True)
class Catalog:
    """The items of a model.

    Attributes:
        items: raw ids of items 1 … n.
        tokens: int32 [total], target tokens of all items one after another, without end of sequence.
        offsets: int64 [n + 1], where each item's tokens begin.
        listed: bool [n], which items may be recommended. The others keep number, raw id and text, for histories may
            hold them.
        end_token: end of sequence.
        texts: how each item is written (without the ``item_`` prefix); None: as its number.
        words: how users and items are written in inputs; None: not said, or of a one-pass model, which reads no words.
        tables: the file they were read from, which has the trie as well.
    """

    items: IdTable
    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    listed: npt.NDArray[np.bool_]
    end_token: int
    texts: npt.NDArray[np.bytes_] | None = None
    words: InputWords | None = None
    tables: TableFile | None = None

    @classmethod
    def create(cls, raw_ids: Sequence[str], tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> Catalog:
        """Tokenise items, all of them listed; ``texts`` when they are not written as their numbers.

        Raises:
            CatalogError: ids repeat or are empty.
            TokenizerError: an item cannot be written with this tokeniser.
        """
        written = [str(number) for number in range(1, len(raw_ids) + 1)] if texts is None else list(texts)
        if len(written) != len(raw_ids):
            raise CatalogError(f"{len(written)} item texts for {len(raw_ids)} items: give one text per item")
        tokens, offsets = written_tokens(tokenizer, written)
        encoded = None if texts is None else np.array([t.encode(ENCODING) for t in texts], dtype=np.bytes_)
        listed = np.ones(len(raw_ids), dtype=np.bool_)
        return cls(IdTable.of(raw_ids, "item"), tokens, offsets, listed, tokenizer.eos_id, encoded)

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
        """Prefix tree over the listed items' tokens: read where the catalog was, else built on first use."""
        return Trie.build(self.tokens, self.offsets, self.listed) if self.tables is None else read_trie(self.tables)

    def save(self, path: Path, one_pass: bool = False) -> None:
        """Write items and trie as tables (:mod:`podx.bundle.tables`). ``one_pass``: for a one-pass model.

        Raises:
            CatalogError: an item is longer than the recommender graph walks, or, for a one-pass model, begins another.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            **search_tables(self.trie, self.end_token),
            **(sibling_tables(self.trie) if one_pass else {}),
            **self.items.tables(),
            TOKENS: self.tokens,
            OFFSETS: self.offsets,
            LISTED: self.listed,
        }
        if self.texts is not None:
            arrays[TEXTS] = self.texts
        if self.words is not None:
            arrays |= self.words.tables()
        if one_pass:
            arrays[READ_TOKEN] = read_tokens(self.tokens, self.offsets)
        write_tables(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Catalog:
        """Map what :meth:`save` wrote; the disk is read where the arrays are looked at.

        Raises:
            CatalogError: the file is not such a catalog.
        """
        tables = TableFile(path)
        return cls(
            items=IdTable.read(tables),
            tokens=tables.map(TOKENS),
            offsets=tables.map(OFFSETS),
            listed=tables.map(LISTED),
            end_token=read_end_token(tables),
            texts=tables.map(TEXTS) if TEXTS in tables.layout else None,
            words=InputWords.read(tables),
            tables=tables,
        )


def written_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Target tokens of items written as ``texts``: all tokens int32 [total], where each item's begin int64 [items + 1].

    Raises:
        TokenizerError: an item cannot be written with this tokeniser.
    """
    lists = item_target_tokens(tokenizer, texts)
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in lists])]).astype(np.int64)
    return np.array([token for tokens in lists for token in tokens], dtype=np.int32), offsets
