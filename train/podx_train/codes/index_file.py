"""Codes of items from a file that another tool made, in LETTER's format: ``{"0": ["<a_183>", "<b_70>", …], …}``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from podx.errors import DataError
from podx_train.data.folder import read_json

MAX_CODES = 8  # of one item, once it differs from all others
MAX_CODE_LENGTH = 40  # characters

Codes = list[tuple[str, ...]]


class IndexKeys(StrEnum):
    """What the keys of an index file stand for; the value is its name on the command line."""

    AUTO = "auto"  # one of the others, where only one can be meant
    RAW = "raw"  # raw item ids
    RAW_LESS_1 = "raw-less-1"  # raw item ids, which are numbers, less 1: LETTER's and TIGER's files for numbered data
    NUMBER_LESS_1 = "number-less-1"  # the dataset's own item numbers less 1


def read_index(path: Path, item_ids: Sequence[str], keys: IndexKeys = IndexKeys.AUTO) -> Codes:
    """The codes of each item, entry i - 1 those of item number i; items may still have the same, or one begin another.

    Args:
        path: a JSON object with a list of codes per item. If they are raw ids, those of other items are ignored:
            an index may cover items that the preparation dropped.
        item_ids: raw id of item number i + 1.
        keys: what the file's keys stand for.

    Raises:
        DataError: with file and item: codes missing, empty, not text, with white space, too long or too many; or the
            keys fit no reading, or two that differ.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: name the JSON file of the index with --file")
    content = read_json(path)
    names = _key_of_items(path, set(content), item_ids, keys)
    missing = [place for place, name in enumerate(names) if name not in content]
    if missing:
        raise DataError(
            f"{path} has no codes for {len(missing)} of {len(names)} items, the first being {item_ids[missing[0]]!r} "
            f"(key {names[missing[0]]!r}): add them, or say what the keys are with --keys"
        )
    return [_checked(path, name, content[name]) for name in names]


def _key_of_items(path: Path, found: set[str], item_ids: Sequence[str], keys: IndexKeys) -> list[str]:
    """The key of each item, in order of the item numbers."""
    readings = {
        IndexKeys.RAW: list(item_ids),
        IndexKeys.RAW_LESS_1: [str(int(name) - 1) if name.isdecimal() else "" for name in item_ids],
        IndexKeys.NUMBER_LESS_1: [str(place) for place in range(len(item_ids))],
    }
    if keys is not IndexKeys.AUTO:
        if keys is IndexKeys.RAW_LESS_1 and "" in readings[keys]:
            raise DataError(f"{path}: --keys {keys} needs raw item ids that are numbers; name another reading")
        return readings[keys]
    fitting = [
        reading
        for reading, names in readings.items()
        if set(names) == found or (reading is not IndexKeys.NUMBER_LESS_1 and set(names) < found)
    ]
    if not fitting:
        raise DataError(
            f"{path}: its {len(found)} keys are neither the dataset's {len(item_ids)} raw item ids nor 0 to "
            f"{len(item_ids) - 1}: give every item codes, or say what the keys are with --keys"
        )
    if any(readings[other] != readings[fitting[0]] for other in fitting):
        raise DataError(
            f"{path}: its keys can be read as {' or '.join(fitting)}, which differ, and the wrong one gives items "
            f"each other's codes: say which with --keys ({IndexKeys.RAW_LESS_1} if the file was made from the data "
            f"before podx numbered it)"
        )
    return readings[fitting[0]]


def _checked(path: Path, name: str, raw: object) -> tuple[str, ...]:
    """The codes under a key."""
    where = f"{path}: item {name!r}"
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{where} must have a list of at least one code, found {str(raw)[:60]!r}; add its codes")
    for code in raw:
        if not isinstance(code, str) or not code:
            raise DataError(f"{where}: a code must be text, found {code!r}; write codes like <a_1>")
        if len(code) > MAX_CODE_LENGTH or any(sign.isspace() or not sign.isprintable() for sign in code):
            raise DataError(
                f"{where}: code {code[: 2 * MAX_CODE_LENGTH]!r} has white space or more than {MAX_CODE_LENGTH} "
                f"characters; write codes like <a_1>"
            )
    if len(raw) > MAX_CODES:
        raise DataError(f"{where} has {len(raw)} codes, the most is {MAX_CODES}: use fewer levels")
    return tuple(raw)


def disambiguate(codes: Sequence[tuple[str, ...]]) -> Codes:
    """The same with a further code, ``<x_0>``, ``<x_1>``, …, for all items that share theirs with another.

    The further codes are new ones; items with the same codes get them in order of their numbers.

    Args:
        codes: codes of each item.

    Raises:
        DataError: an item would have more than :data:`MAX_CODES` codes.
    """
    counts = Counter(codes)
    most = max(counts.values(), default=0)
    taken, letters = {code for of_item in codes for code in of_item}, "x"
    while any(f"<{letters}_{place}>" in taken for place in range(most)):
        letters += "x"
    places: Counter[tuple[str, ...]] = Counter()
    result: Codes = []
    for number, of_item in enumerate(codes, start=1):
        if counts[of_item] > 1:
            if len(of_item) == MAX_CODES:
                raise DataError(
                    f"item number {number} has the same {MAX_CODES} codes as another, and there is no room for one "
                    f"more: use an index with fewer levels or larger codebooks"
                )
            places[of_item] += 1
            of_item = (*of_item, f"<{letters}_{places[of_item] - 1}>")
        result.append(of_item)
    return result
