"""Peers: methods that write their lists to a file, which is scored here like everything else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from podx.bundle.manifest import file_sha256
from podx.errors import DataError
from podx.metrics import NOT_AN_ITEM
from podx.text.templates import Task
from podx_bench.accuracy.datasets import asked_users, ranked_users
from podx_bench.accuracy.metrics import IntArray, list_metrics
from podx_bench.accuracy.options import AccuracyOptions
from podx_bench.accuracy.records import CONSTRAINED, Measurement, PeerRecord
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_train.data.dataset import Dataset


class PeerFile(msgspec.Struct):
    """What a peer writes; all else in its file is taken for what it says of its training.

    Attributes:
        name: of its row. users: user numbers. lists: item numbers for each of them, best first.
    """

    name: str
    users: list[int]
    lists: list[list[int]]
    environment: dict[str, Any] = {}


def read_peer(path: Path) -> tuple[PeerFile, dict[str, Any]]:
    """A peer's file, and what it says of its training.

    Raises:
        DataError: the file cannot be read or lacks a part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        peer = msgspec.convert(content, PeerFile)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a file that a peer wrote") from error
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path}: {error}; a peer's file is a JSON object with its 'name', 'users' must be user numbers, and "
            f"'lists' a list of item numbers for each"
        ) from error
    users, lists = peer.users, peer.lists
    if len(users) != len(lists) or not users or len(set(users)) != len(users):
        raise DataError(f"{path} has {len(lists)} lists for {len(users)} users: it needs one list for each, users once")
    return peer, {key: value for key, value in content.items() if key not in PeerFile.__struct_fields__}


def _lists(rows: Sequence[Sequence[int]]) -> IntArray:
    """The first ten of each list, [users, 10], 0 where there are fewer."""
    lists = np.full((len(rows), LEAST_ACCURACY_K), NOT_AN_ITEM, dtype=np.int64)
    for place, row in enumerate(rows):
        lists[place, : len(row[:LEAST_ACCURACY_K])] = row[:LEAST_ACCURACY_K]
    return lists


def _require_known(path: Path, numbers: Sequence[int], count: int, what: str) -> None:
    wrong = next((number for number in numbers if not 1 <= number <= count), None)
    if wrong is not None:
        raise DataError(
            f"{path} names {what} {wrong}, but the dataset numbers its {what}s 1..{count}: give the dataset folder "
            f"that the peer was trained on"
        )


def score_peer(path: Path, dataset: Dataset, digest: str, options: AccuracyOptions) -> tuple[PeerRecord, list[str]]:
    """Score a peer's sequential lists on the users asked for, as far as its file has them; and what to say of it.

    Args:
        digest: of the dataset.

    Raises:
        DataError: the file is damaged, names users or items the dataset lacks, or has none of the users asked for.
    """
    peer, training = read_peer(path)
    _require_known(path, peer.users, dataset.user_count, "user")
    _require_known(path, [number for row in peer.lists for number in row], dataset.item_count, "item")
    lists = dict(zip(peer.users, peer.lists, strict=True))
    asked = asked_users(Task.SEQUENTIAL, dataset, options)
    users = np.array([user for user in asked.tolist() if user in lists], dtype=np.int64)
    if not len(users):
        raise DataError(f"{path} has lists for none of the {len(asked)} users asked for: let the peer write all users")
    notes = []
    if len(users) < len(asked):
        notes.append(f"{peer.name}: its file has lists for {len(users):,} of the {len(asked):,} users asked for")
    workload = ranked_users(Task.SEQUENTIAL, dataset, users)
    metrics = list_metrics(_lists([lists[user] for user in users.tolist()]), workload, dataset)
    measurement = Measurement(Task.SEQUENTIAL.value, CONSTRAINED, len(users), None, metrics)
    record = PeerRecord(
        peer.name, file_sha256(path), digest, dataset.scheme, training, peer.environment, (measurement,)
    )
    return record, notes
