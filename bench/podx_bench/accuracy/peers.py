"""Peers: methods that write their lists to a file, which is scored here like everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from podx.bundle.manifest import file_sha256
from podx.errors import DataError
from podx.text.templates import Task
from podx_bench.accuracy.datasets import asked_users, ranked_users
from podx_bench.accuracy.metrics import list_metrics, padded
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


def score_peer(path: Path, dataset: Dataset, digest: str, options: AccuracyOptions) -> tuple[PeerRecord, list[str]]:
    """Score a peer's sequential lists on the users asked for, as far as its file has them; and what to say of it.

    Args:
        digest: of the dataset.

    Raises:
        DataError: the file is damaged, names users or items the dataset lacks, or has none of the users asked for.
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
    lists = dict(zip(peer.users, peer.lists, strict=False))
    if not len(lists) == len(peer.users) == len(peer.lists) > 0:
        raise DataError(
            f"{path} has {len(peer.lists)} lists for {len(peer.users)} users: it needs one list for each, users once"
        )
    items = [number for row in peer.lists for number in row]
    for what, numbers, count in (("user", peer.users, dataset.user_count), ("item", items, dataset.item_count)):
        if wrong := [number for number in numbers if not 1 <= number <= count]:
            raise DataError(
                f"{path} names {what} {wrong[0]}, but the dataset numbers its {what}s 1..{count}: give the dataset "
                f"folder that the peer was trained on"
            )
    asked = asked_users(Task.SEQUENTIAL, dataset, options)
    users = np.array([user for user in asked.tolist() if user in lists], dtype=np.int64)
    if not len(users):
        raise DataError(f"{path} has lists for none of the {len(asked)} users asked for: let the peer write all users")
    notes = []
    if len(users) < len(asked):
        notes.append(f"{peer.name}: its file has lists for {len(users):,} of the {len(asked):,} users asked for")
    workload = ranked_users(Task.SEQUENTIAL, dataset, users)
    metrics = list_metrics(padded([lists[user] for user in users.tolist()], LEAST_ACCURACY_K), workload, dataset)
    record = PeerRecord(
        label=peer.name,
        digest=file_sha256(path),
        dataset=digest,
        scheme=dataset.scheme,
        training={key: value for key, value in content.items() if key not in PeerFile.__struct_fields__},
        environment=peer.environment,
        measurements=(Measurement(Task.SEQUENTIAL.value, CONSTRAINED, len(users), None, metrics),),
    )
    return record, notes
