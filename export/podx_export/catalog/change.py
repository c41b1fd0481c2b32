"""Changes to a catalog: items that come off the list, come back, or are new."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import ENCODING, Catalog, IdTable, written_tokens
from podx.errors import CatalogError
from podx.text.tokenizer import Tokenizer

COLUMNS = 2
_TAB, _COMMA = "\t", ","


@dataclass(frozen=True)
class NewItem:
    """An item to add. ``text``: how it is written (without the ``item_`` prefix); None: as its number."""

    raw_id: str
    text: str | None = None


@dataclass(frozen=True)
class CatalogChange:
    """What is to become of a catalog. ``delist``, ``restore``: raw ids; either may name items that are so already."""

    delist: Sequence[str] = ()
    restore: Sequence[str] = ()
    add: Sequence[NewItem] = ()

    @classmethod
    def read(cls, delist: Path | None, restore: Path | None, add: Path | None) -> CatalogChange:
        """Read a change from files; None where there is nothing of a kind.

        Args:
            delist, restore: one raw id per line.
            add: CSV or TSV without a header: raw id, and the item's text if it is not to be written as its number.

        Raises:
            CatalogError: a line of ``add`` has more than two columns or no id, or a file is no text.
        """
        return cls(
            delist=_read_ids(delist) if delist else (),
            restore=_read_ids(restore) if restore else (),
            add=_read_items(add) if add else (),
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path} is not a text file in UTF-8 ({error}): convert it") from error


def _read_ids(path: Path) -> list[str]:
    lines = (line.removesuffix("\r") for line in _read_text(path).split("\n"))  # ids may hold other line separators
    return [line for line in lines if line]


def _read_items(path: Path) -> list[NewItem]:
    text = _read_text(path)
    delimiter = _TAB if _TAB in text.split("\n", 1)[0] else _COMMA
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    items = []
    try:
        for row in rows:
            if len(row) > COLUMNS or (row and not row[0]):
                raise csv.Error(f"it reads as {row}")
            if row:
                items.append(NewItem(row[0], row[1] if len(row) == COLUMNS and row[1] else None))
    except csv.Error as error:
        raise CatalogError(
            f"{path}, line {rows.line_num} is no raw id or raw id and text ({error}): write one item per line, "
            f"separated by {'a tab' if delimiter == _TAB else 'a comma'}"
        ) from error
    return items


def changed(catalog: Catalog, tokenizer: Tokenizer, change: CatalogChange) -> Catalog:
    """The catalog after a change. Numbers, ids and texts of the items it has stay as they are.

    Raises:
        CatalogError: an id is unknown, or named twice against itself; a new id is there already; a new item is written
            with the same tokens as another.
        TokenizerError: a new item cannot be written with this tokeniser.
    """
    listed = np.array(catalog.listed)
    both = set(change.delist) & set(change.restore)
    if both:
        raise CatalogError(f"{len(both)} items are both delisted and listed ({min(both)!r} among them): choose one")
    listed[_numbers(catalog, change.delist) - 1] = False
    listed[_numbers(catalog, change.restore) - 1] = True
    catalog = replace(catalog, listed=listed, tables=None)
    return _extended(catalog, tokenizer, change.add) if change.add else catalog


def _numbers(catalog: Catalog, raw_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    numbers = [catalog.items.number(raw) for raw in raw_ids]
    unknown = [raw for raw, number in zip(raw_ids, numbers, strict=True) if number is None]
    if unknown:
        raise CatalogError(
            f"{len(unknown)} of {len(raw_ids)} items are not in the catalog ({unknown[0]!r} among them): "
            f"mend the file (one raw id per line), or add them with --add"
        )
    return np.array(numbers, dtype=np.int64)


def _extended(catalog: Catalog, tokenizer: Tokenizer, new: Sequence[NewItem]) -> Catalog:
    known = [item.raw_id for item in new if catalog.items.number(item.raw_id) is not None]
    if known:
        raise CatalogError(
            f"{len(known)} of {len(new)} new items are in the catalog already ({known[0]!r} among them): "
            f"leave them out, and bring back delisted ones with --list"
        )
    ids = IdTable.of([item.raw_id for item in new], "new item").raw_ids
    first = len(catalog) + 1
    texts = [str(number) if item.text is None else item.text for number, item in enumerate(new, start=first)]
    tokens, offsets = written_tokens(tokenizer, texts)
    together = replace(
        catalog,
        items=IdTable(np.concatenate([catalog.items.raw_ids, ids]), "item"),
        tokens=np.concatenate([catalog.tokens, tokens]),
        offsets=np.concatenate([catalog.offsets, catalog.offsets[-1] + offsets[1:]]),
        listed=np.concatenate([catalog.listed, np.ones(len(new), dtype=np.bool_)]),
        texts=_all_texts(catalog, texts, any(item.text is not None for item in new)),
    )
    _refuse_collisions(together, first)
    return together


def require_known_codes(before: Catalog, after: Catalog) -> None:
    """Raise unless a one-pass model knows every token of the new items.

    It was trained on a token at the level at which the items of its catalog have it, and reads an item by its last one.
    So an item that is one token of its own cannot be added, and one of several codes can where others share each.

    Args:
        before: the catalog so far. after: the same with new items at its end.

    Raises:
        CatalogError: a new item has a token that no other has at its level, or a last one that no other ends with.
    """
    width = int(after.tokens.max()) + 1
    known, wanted = (_levels(catalog) * width + catalog.tokens for catalog in (before, after))
    first = int(before.offsets[-1])
    strange = ~np.isin(wanted[first:], known)
    ends = after.offsets[len(before) + 1 :] - 1
    strange[ends - first] |= ~np.isin(after.tokens[ends], before.tokens[before.offsets[1:] - 1])
    if strange.any():
        number = int(np.searchsorted(after.offsets, first + int(np.argmax(strange)), side="right"))
        raise CatalogError(
            f"the new item {after.items.raw(number)!r}, written {after.text(number)}, has a code that no item of the "
            f"catalog has at its place: this one-pass model has not learnt it. Give the item codes that other items "
            f"share, or train and export again with it"
        )


def _levels(catalog: Catalog) -> npt.NDArray[np.int64]:
    """Level of each of the catalog's tokens."""
    return np.arange(len(catalog.tokens)) - np.repeat(catalog.offsets[:-1], np.diff(catalog.offsets))


def _all_texts(catalog: Catalog, texts: Sequence[str], needed: bool) -> npt.NDArray[np.bytes_] | None:
    """Texts of old and new items; None while each is written as its number."""
    if catalog.texts is None and not needed:
        return None
    old = np.arange(1, len(catalog) + 1).astype(np.bytes_) if catalog.texts is None else catalog.texts
    return np.concatenate([old, np.array([text.encode(ENCODING) for text in texts], dtype=np.bytes_)])


def _refuse_collisions(catalog: Catalog, first: int) -> None:
    """Refuse new items (numbers from ``first`` on) that are written like another one, listed or not.

    An item that is off the list may come back, and histories may hold it, so its tokens are not free either.
    """
    lengths = np.diff(catalog.offsets)
    for length in np.unique(lengths[first - 1 :]).tolist():
        rows = np.flatnonzero(lengths == length)
        written = np.ascontiguousarray(catalog.tokens[catalog.offsets[rows][:, None] + np.arange(length)])
        keys = written.view(f"S{written.dtype.itemsize * length}")[:, 0]
        new = np.unique(keys[rows >= first - 1])
        place = np.minimum(np.searchsorted(new, keys), len(new) - 1)
        seen: dict[bytes, int] = {}
        for row in np.flatnonzero(new[place] == keys).tolist():
            number = int(rows[row]) + 1
            earlier = seen.setdefault(bytes(keys[row]), number)
            if earlier != number:
                raise CatalogError(
                    f"the new item {catalog.items.raw(number)!r} is written with the same tokens as "
                    f"{catalog.items.raw(earlier)!r}: give it another text"
                )
