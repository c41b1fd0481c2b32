"""SASRec's side of the split, and the file its answers are kept in: numpy alone, so that any environment can run it.

The split is podx's own (leave-one-out): of a sequence of L items, the first L - 2 are for training, the next is for
validation, the last for the test. A test history is everything but the last item.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.atomic import write_text
from podx.errors import ConfigError, DataError

IntArray = npt.NDArray[np.int64]

SEQUENCES_FILE = "sequential.txt"
SHORTEST = 3
"""Items of a user that can be split: one to learn from, one for validation, one for the test."""
NAME = "SASRec"


@dataclass(frozen=True)
class Interactions:
    """What SASRec may see: every sequence without its test item. Three arrays of one length, by user, then by time.

    Attributes:
        users, items: numbers, from 1.
        times: place of the item in its user's sequence, from 0.
    """

    users: IntArray
    items: IntArray
    times: IntArray


def read_sequences(folder: Path) -> dict[int, IntArray]:
    """User number → all items in order of time, from the dataset folder's ``sequential.txt``.

    Raises:
        DataError: there is no such file, or a line of it is not ``user item item item …``.
    """
    path = folder / SEQUENCES_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; name a folder made by `podx data prepare`") from error
    sequences: dict[int, IntArray] = {}
    for number, line in enumerate(lines, start=1):
        try:
            user, *items = (int(word) for word in line.split())
        except ValueError:
            raise DataError(
                f"{path}:{number}: not `user item item …` in whole numbers; prepare the data again"
            ) from None
        if user < 1 or user in sequences or min(items, default=0) < 1 or len(items) < SHORTEST:
            raise DataError(
                f"{path}:{number}: each user has one line, numbers from 1 and at least {SHORTEST} items; "
                "prepare the data again"
            )
        sequences[user] = np.array(items, dtype=np.int64)
    if not sequences:
        raise DataError(f"{path} is empty: prepare the data again")
    return sequences


def seen_interactions(sequences: Mapping[int, IntArray]) -> Interactions:
    """All but each user's last item. The last of what remains is the validation item."""
    lengths = np.array([len(items) - 1 for items in sequences.values()])
    return Interactions(
        users=np.repeat(np.fromiter(sequences, dtype=np.int64), lengths),
        items=np.concatenate([items[:-1] for items in sequences.values()]),
        times=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
    )


def validation_mask(users: npt.NDArray[np.integer], times: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which interactions are the last of their user, in whatever order they come."""
    order = np.lexsort((times, users))
    last = np.append(users[order][1:] != users[order][:-1], True)
    mask = np.zeros(len(users), dtype=np.bool_)
    mask[order[last]] = True
    return mask


def as_lists(users: IntArray, answered: IntArray, items: IntArray) -> list[list[int]]:
    """Items recommended to each user, best first; none for a user of whom the model knows nothing.

    Args:
        users: [n], in the order of the lists.
        answered, items: of each recommendation, a user's by falling score.
    """
    lists: dict[int, list[int]] = {user: [] for user in users.tolist()}
    for user, item in zip(answered.tolist(), items.tolist(), strict=True):
        lists[user].append(item)
    return list(lists.values())


def content_mark(folder: Path) -> str:
    """sha256 of the sequences, by which a reader can tell whose answers these are."""
    return hashlib.sha256((folder / SEQUENCES_FILE).read_bytes()).hexdigest()


def require_place(out: Path) -> None:
    """Make the folder of the result now, not after minutes of training.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error}; choose another --out") from error
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: --out names the file to write")


def write_result(out: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON file whole or not at all."""
    write_text(out, json.dumps(content))
