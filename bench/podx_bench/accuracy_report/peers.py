"""Peers: methods that write their lists to a file, which is scored here like everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from podx.bundle.manifest import file_sha256
from podx.errors import DataError
from podx.metrics import NOT_AN_ITEM
from podx.text.templates import Task
from podx_bench.accuracy_report.leaks import asked_users, ranked_users
from podx_bench.accuracy_report.options import StudyOptions
from podx_bench.accuracy_report.rates import IntArray, list_metrics
from podx_bench.accuracy_report.records import CONSTRAINED, Measurement, PeerRecord
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_train.data.dataset import Dataset

_OWN_PARTS = ("name", "users", "lists", "environment")


def read_peer(path: Path) -> dict[str, Any]:
    """The content of a peer's file.

    Raises:
        DataError: the file cannot be read or lacks a part.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a file that a peer wrote") from error
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise DataError(f"{path}: a peer's file is a JSON object with its 'name'")
    users, lists = content.get("users"), content.get("lists")
    if not _numbers(users) or not isinstance(lists, list) or not all(_numbers(row) for row in lists):
        raise DataError(f"{path}: 'users' must be user numbers, and 'lists' a list of item numbers for each")
    if len(users) != len(lists) or not users or len(set(users)) != len(users):
        raise DataError(f"{path} has {len(lists)} lists for {len(users)} users: it needs one list for each, users once")
    return content


def _numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int for number in value)


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


def score_peer(path: Path, dataset: Dataset, digest: str, options: StudyOptions) -> tuple[PeerRecord, list[str]]:
    """Score a peer's sequential lists on the users asked for, as far as its file has them; and what to say of it.

    Args:
        digest: of the dataset.

    Raises:
        DataError: the file is damaged, names users or items the dataset lacks, or has none of the users asked for.
    """
    content = read_peer(path)
    _require_known(path, content["users"], dataset.user_count, "user")
    _require_known(path, [number for row in content["lists"] for number in row], dataset.item_count, "item")
    place = {user: row for row, user in enumerate(content["users"])}
    asked = asked_users(Task.SEQUENTIAL, dataset, options)
    users = np.array([user for user in asked.tolist() if user in place], dtype=np.int64)
    if not len(users):
        raise DataError(f"{path} has lists for none of the {len(asked)} users asked for: let the peer write all users")
    notes = []
    if len(users) < len(asked):
        notes.append(f"{content['name']}: its file has lists for {len(users):,} of the {len(asked):,} users asked for")
    lists = _lists([content["lists"][place[user]] for user in users.tolist()])
    metrics = list_metrics(lists, ranked_users(Task.SEQUENTIAL, dataset, users), dataset)
    found = Measurement(Task.SEQUENTIAL, CONSTRAINED, len(users), None, metrics)
    training = {key: value for key, value in content.items() if key not in _OWN_PARTS}
    environment = content.get("environment")
    told = environment if isinstance(environment, Mapping) else {}
    return PeerRecord(content["name"], file_sha256(path), digest, dataset.scheme, training, told, (found,)), notes
