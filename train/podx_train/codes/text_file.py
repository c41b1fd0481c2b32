"""Texts of items from a file: titles and descriptions, or the reviews that interactions come with."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from podx.errors import DataError
from podx_train.data.columns import KNOWN_NAMES, ColumnNames
from podx_train.data.dataset import Dataset
from podx_train.data.formats import detect_format
from podx_train.data.readers import RECORDS, Progress, text_lines
from podx_train.data.values import SHOWN_CHARACTERS, RowError, id_text

_NAMES = "title name brand store category categories feature features description summary"
TEXT_COLUMNS = (*_NAMES.split(), *KNOWN_NAMES["review"])
"""Columns whose text is taken where none is named, lower case; of a line with several, all, in this order."""


def held_out_pairs(dataset: Dataset) -> set[tuple[str, str]]:
    """Raw ids of user and item of every interaction that is not for training."""
    users = enumerate(dataset.user_ids, start=1)
    return {(raw, dataset.item_ids[item - 1]) for user, raw in users for item in dataset.sequence(user)[-2:].tolist()}


def read_texts(
    path: Path,
    held_out: Container[tuple[str, str]] = (),
    columns: ColumnNames = ColumnNames(),
    text_columns: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[dict[str, list[str]], int]:
    """Read a file of JSON lines, or CSV with a header, gzipped or not: an item's raw id and text in each line.

    Args:
        path: the file; an item may have several lines.
        held_out: users and items of whom no line is read, so that no review tells of an interaction to be guessed.
        columns: those of item and user where they are not the usual ones.
        text_columns: those of the text, joined; none: those of :data:`TEXT_COLUMNS` that a line has.
        progress: called now and then with the bytes read so far and the size of the file.

    Returns:
        Texts by raw item id, one for each line that has any; and how many lines were ``held_out``.

    Raises:
        DataError: with file and line: no JSON or CSV, no item, or a column that is no text; or nothing has text.
    """
    kind = detect_format(path)
    if kind not in RECORDS:
        raise DataError(f'{path} is no file of texts: give JSON lines, {{"item": ..., "title": ...}}, or CSV')
    user_names = [columns.user.lower()] if columns.user else KNOWN_NAMES["user"]
    item_names = [columns.item.lower()] if columns.item else KNOWN_NAMES["item"]
    text_names = [name.lower() for name in text_columns] or TEXT_COLUMNS
    texts: dict[str, list[str]] = {}
    left_out, seen = 0, dict[str, None]()
    with text_lines(path, progress) as lines:
        for place, record in RECORDS[kind](path, lines):
            try:
                if isinstance(record, RowError):
                    raise record
                fields = {name.lower(): value for name, value in record.items()}
                item = id_text("item", _value(fields, item_names))
                text = "\n".join(part for name in text_names for part in _parts(name, fields.get(name)))
            except RowError as problem:
                why = f"{problem.reason} {problem.detail}".strip()
                raise DataError(f"{path}: {place}: {why}: mend the line or leave it out") from None
            seen |= dict.fromkeys(fields)
            if (str(_value(fields, user_names)).strip(), item) in held_out:
                left_out += 1
            elif text:
                texts.setdefault(item, []).append(text.encode(errors="replace").decode())  # halves of UTF-16 pairs
    if not texts:
        raise DataError(f"{path} has no text of any item: name its columns with --text-column, among {', '.join(seen)}")
    return texts, left_out


def _value(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of the fields that a line has; None without any."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _parts(name: str, value: Any) -> Iterator[str]:
    """Texts in a field, none empty: one, or lists of them, as Amazon's categories are. Numbers are texts too."""
    if isinstance(value, list):
        for each in value:
            yield from _parts(name, each)
    elif isinstance(value, bool | dict):
        raise RowError(f"{name} is no text", repr(value)[:SHOWN_CHARACTERS])
    elif value is not None and (text := str(value).strip()):
        yield text
