"""The files of a POD dataset folder: their names, how each is written and how each is read and checked.

The format is the one POD, RDRec and PeaPOD publish their data in, so their folders load as they are:

- ``sequential.txt``: a line per user, ``user item item …``, numbers from 1, in order of time;
- ``negative.txt``: a line per user, ``user`` and the items its test item is ranked against;
- ``explanation.json``: ``{"train": [...], "val": [...], "test": [...]}``, records of user, item, explanation, feature;
- ``datamaps.json``: ``{"id2user": {"1": raw}, "id2item": {"1": raw}}``.

Three files are podx's own and optional: ``validation_negative.txt`` (as ``negative.txt``, for the validation item),
``item_codes.json`` (``{"0": [code, …]}``: how item 1 is written; LETTER's index format) and ``dataset.json`` (ID
scheme, counts, provenance).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podx.errors import DataError

SEQUENCES_FILE = "sequential.txt"
TEST_NEGATIVES_FILE = "negative.txt"
VALIDATION_NEGATIVES_FILE = "validation_negative.txt"
EXPLANATIONS_FILE = "explanation.json"
MAPS_FILE = "datamaps.json"
CODES_FILE = "item_codes.json"
DESCRIPTION_FILE = "dataset.json"

EXPLANATION_SPLITS = ("train", "val", "test")
MIN_SEQUENCE = 3  # leave-one-out: one item to learn from, one for validation, one for test
FORMAT_VERSION = 1

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ExplanationRecord:
    """One sentence in which a user says why of an item; ``feature`` is the word it turns on. Numbers count from 1."""

    user: int
    item: int
    explanation: str
    feature: str


def training_mask(offsets: Int32Array) -> NDArray[np.bool_]:
    """Which entries of the items array are for training: all but the last two of each user, [interactions]."""
    mask = np.ones(int(offsets[-1]), dtype=np.bool_)
    mask[offsets[1:] - 1] = False
    mask[offsets[1:] - 2] = False
    return mask


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: name a dataset folder made by 'podx data prepare' or 'synth'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; prepare the dataset again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file.

    Raises:
        DataError: the file cannot be read or does not hold a JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); restore the file or prepare again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, not {type(content).__name__}; prepare the dataset again")
    return content


def _number_line(path: Path, number: int, line: str) -> list[int]:
    """The whole numbers of one line, each at least 1."""
    try:
        values = [int(word) for word in line.split()]
    except ValueError:
        raise DataError(f"{path}:{number}: every word must be a whole number, found {line[:60]!r}") from None
    largest = np.iinfo(np.int32).max
    wrong = next((value for value in values if not 1 <= value <= largest), None)
    if wrong is not None:
        raise DataError(f"{path}:{number}: numbers must lie in 1..{largest}, found {wrong}; renumber the data from 1")
    return values


def _rows_by_user(path: Path, least: int, what: str) -> list[tuple[int, list[int]]]:
    """(line number, items) of users 1, 2, … in order, whatever the order of lines in the file."""
    rows: dict[int, tuple[int, list[int]]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        user, *items = _number_line(path, number, line)
        if user in rows:
            raise DataError(f"{path}:{number}: user {user} was on line {rows[user][0]} already; keep one line per user")
        if len(items) < least:
            raise DataError(f"{path}:{number}: user {user} has {len(items)} items, {what}; drop the user or add items")
        rows[user] = (number, items)
    missing = next((user for user in range(1, len(rows) + 1) if user not in rows), None)
    if missing is not None:
        raise DataError(f"{path}: user {missing} has no line; users must be numbered 1..{len(rows)} without a gap")
    return [rows[user] for user in range(1, len(rows) + 1)]


def read_sequences(path: Path) -> tuple[Int32Array, Int32Array]:
    """Items of all users in one array, and the offsets [users + 1] at which each user's items start.

    Raises:
        DataError: with line number and reason: not a number, a user twice or missing, fewer than three items.
    """
    rows = _rows_by_user(path, MIN_SEQUENCE, f"leave-one-out needs at least {MIN_SEQUENCE}")
    if not rows:
        raise DataError(f"{path} holds no users; prepare the dataset again")
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum([len(items) for _, items in rows])
    flat = np.fromiter((item for _, items in rows for item in items), dtype=np.int32, count=int(offsets[-1]))
    return flat, offsets


def read_negatives(path: Path, targets: Int32Array, item_count: int) -> Int32Array:
    """Negative items [users, n], row u-1 those of user u; ``targets`` [users] are the items they are ranked against.

    Raises:
        DataError: with line number: ragged rows, users that differ from the sequences', an unknown item, or the
            user's own target among its negatives.
    """
    rows = _rows_by_user(path, 1, "a negative list needs at least 1")
    if len(rows) != len(targets):
        raise DataError(f"{path} has {len(rows)} users, the sequences have {len(targets)}; delete it or prepare again")
    width = len(rows[0][1])
    for user, (number, items) in enumerate(rows, start=1):
        if len(items) != width:
            raise DataError(f"{path}:{number}: {len(items)} items where other lines have {width}; make them equal")
        if max(items) > item_count:
            raise DataError(f"{path}:{number}: item {max(items)} is not in the catalog of {item_count} items")
        if int(targets[user - 1]) in items:
            raise DataError(f"{path}:{number}: item {targets[user - 1]} is the held-out item of user {user} itself")
    return np.array([items for _, items in rows], dtype=np.int32)


def _record(where: str, raw: object, user_count: int, item_count: int) -> ExplanationRecord:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: must be an object with user, item, explanation and feature")
    for key, kind in (("user", int), ("item", int), ("explanation", str), ("feature", str)):
        if not isinstance(raw.get(key), kind) or isinstance(raw.get(key), bool):
            raise DataError(f"{where}: {key!r} must be {kind.__name__}, found {raw.get(key)!r}")
    for key, count in (("user", user_count), ("item", item_count)):
        if not 1 <= raw[key] <= count:
            raise DataError(f"{where}: {key} {raw[key]} is not in the dataset, which has 1..{count}")
    return ExplanationRecord(raw["user"], raw["item"], raw["explanation"], raw["feature"])


def read_explanations(path: Path, user_count: int, item_count: int) -> dict[str, list[ExplanationRecord]]:
    """Records of the three splits; keys beyond the four of the format are ignored.

    Raises:
        DataError: with the split and the position: a missing or mistyped field, or an unknown user or item.
    """
    content = read_json(path)
    splits: dict[str, list[ExplanationRecord]] = {}
    for split in EXPLANATION_SPLITS:
        raws = content.get(split)
        if not isinstance(raws, list):
            raise DataError(f"{path}: {split!r} must be a list of records; all of {EXPLANATION_SPLITS} are needed")
        splits[split] = [_record(f"{path}: {split}[{i}]", r, user_count, item_count) for i, r in enumerate(raws)]
    return splits


def _raw_ids(path: Path, key: str, raw: object, least: int) -> list[str]:
    if not isinstance(raw, dict):
        raise DataError(f"{path}: {key!r} must map numbers to raw ids")
    ids = [raw.get(str(number)) for number in range(1, len(raw) + 1)]
    if any(not isinstance(name, str) for name in ids):
        gap = next(number for number, name in enumerate(ids, start=1) if not isinstance(name, str))
        raise DataError(f"{path}: {key!r} has no text under {str(gap)!r}; its keys must be 1..{len(raw)} without a gap")
    if len(ids) < least:
        raise DataError(f"{path}: {key!r} has {len(ids)} entries but the sequences use number {least}; complete it")
    names = [str(name) for name in ids]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {key!r} gives the raw id {twice!r} to two numbers; raw ids must differ")
    return names


def read_maps(path: Path, user_count: int, largest_item: int) -> tuple[list[str], list[str]]:
    """Raw user ids and raw item ids, entry n-1 that of number n; the numbers as text where the file is missing.

    Raises:
        DataError: a number without a raw id, a raw id given twice, or more users than sequences.
    """
    if not path.exists():
        return [str(n + 1) for n in range(user_count)], [str(n + 1) for n in range(largest_item)]
    content = read_json(path)
    users = _raw_ids(path, "id2user", content.get("id2user"), user_count)
    if len(users) != user_count:
        raise DataError(f"{path}: 'id2user' has {len(users)} entries for {user_count} sequences; make them agree")
    return users, _raw_ids(path, "id2item", content.get("id2item"), largest_item)


def rows_text(rows: Iterable[NDArray[np.int32]]) -> str:
    """Lines ``user number number …`` for users 1, 2, …"""
    return "".join(f"{user} {' '.join(map(str, row.tolist()))}\n" for user, row in enumerate(rows, start=1))


def maps_text(user_ids: Sequence[str], item_ids: Sequence[str]) -> str:
    """``datamaps.json`` with both directions, as the published folders have them."""
    content: dict[str, dict[str, str]] = {}
    for kind, names in (("user", user_ids), ("item", item_ids)):
        content[f"{kind}2id"] = {name: str(n) for n, name in enumerate(names, start=1)}
        content[f"id2{kind}"] = {str(n): name for n, name in enumerate(names, start=1)}
    return json.dumps(content, ensure_ascii=False)


def explanations_text(explanations: Mapping[str, Sequence[ExplanationRecord]]) -> str:
    """``explanation.json``."""
    plain = {split: [asdict(record) for record in explanations.get(split, ())] for split in EXPLANATION_SPLITS}
    return json.dumps(plain, ensure_ascii=False)


def codes_text(codes: Sequence[Sequence[str]]) -> str:
    """``item_codes.json``: the codes of item number i + 1 under the key i."""
    return json.dumps({str(place): list(of_item) for place, of_item in enumerate(codes)}, ensure_ascii=False) + "\n"


def read_codes(path: Path, item_count: int) -> tuple[tuple[str, ...], ...]:
    """The codes of each item, as :func:`codes_text` wrote them.

    Raises:
        DataError: an item has none, or the file is damaged.
    """
    content = read_json(path)
    codes = [content.get(str(place)) for place in range(item_count)]
    for number, of_item in enumerate(codes, start=1):
        if not isinstance(of_item, list) or not of_item or not all(isinstance(code, str) and code for code in of_item):
            raise DataError(f"{path} has no list of codes for item number {number}: make it with podx data index")
    if len(content) != item_count:
        raise DataError(f"{path} has codes of {len(content)} items, the dataset {item_count}: make it again")
    return tuple(tuple(of_item) for of_item in codes if of_item)
