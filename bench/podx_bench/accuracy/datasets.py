"""How much of the held-out data a dataset gives away, and what needs no model here: rows that learn nothing, and peers,
methods that write their lists to a file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from podx.bundle.manifest import file_sha256
from podx.errors import DataError
from podx.text.templates import Task
from podx_bench.accuracy.metrics import baseline_records, list_metrics
from podx_bench.accuracy.options import AccuracyOptions
from podx_bench.accuracy.records import DatasetRecord, ModelRecord
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.harness.record_file import digest_of
from podx_bench.harness.records import AccuracyRecord
from podx_bench.workload.baselines import padded
from podx_bench.workload.scenarios import TEST, ranking_workload, user_order
from podx_train.data.dataset import Dataset
from podx_train.data.stats import dataset_stats

RANKING_TASKS = (Task.SEQUENTIAL, Task.TOPN)


def dataset_digest(folder: Path) -> str:
    """Hex digest of the names and bytes of a dataset folder's files."""
    return digest_of([(path.name, file_sha256(path)) for path in sorted(folder.iterdir()) if path.is_file()])


def leak_counts(dataset: Dataset) -> dict[str, int]:
    """Held-out pairs of a user and an item that other parts of the data give away.

    ``next_number``: test items that are the largest number of the user's history plus one; ``within_ten``: that
    number, or one of the nine after it. ``explained_test``, ``explained_validation``: test and validation pairs that
    occur among the training explanations.
    """
    users = range(1, dataset.user_count + 1)
    steps = np.array([dataset.test_item(user) - int(dataset.history(user, TEST).max()) for user in users])
    explained = {(record.user, record.item) for record in dataset.explanations["train"]}
    return {
        "pairs": dataset.user_count,
        "next_number": int((steps == 1).sum()),
        "within_ten": int(((steps >= 1) & (steps <= LEAST_ACCURACY_K)).sum()),
        "explained_test": sum((user, dataset.test_item(user)) in explained for user in users),
        "explained_validation": sum((user, dataset.validation_item(user)) in explained for user in users),
    }


def asked_users(task: Task, dataset: Dataset, options: AccuracyOptions) -> npt.NDArray[np.int64]:
    """Numbers of the users that a ranking task is measured on."""
    return user_order(dataset, options.seed)[: options.limit(task)]


def describe_dataset(
    dataset: Dataset, path: Path, digest: str, options: AccuracyOptions, record: DatasetRecord | None
) -> Iterator[DatasetRecord]:
    """Leaks of a dataset, then with its rows that learn nothing, task by task, on the users the options ask for.

    ``record``: what an earlier run has kept.
    """
    if record is None:
        stats, leaks = dataclasses.asdict(dataset_stats(dataset)), leak_counts(dataset)
        codes = max(map(len, dataset.item_codes or ()), default=0)
        record = DatasetRecord(path.resolve().name, dataset.scheme, digest, stats, leaks, codes=codes)
    yield record
    for task in (task for task in RANKING_TASKS if task in (options.tasks or RANKING_TASKS)):
        users = asked_users(task, dataset, options)
        if any((m.task, m.users) == (task, len(users)) for rows in record.rows.values() for m in rows):
            continue
        rows, workload = dict(record.rows), ranking_workload(task, dataset, users)
        for measured in baseline_records(dataset, workload, options.seed):
            rows[measured.engine] = (*rows.get(measured.engine, ()), measured)
        record = dataclasses.replace(record, rows=rows)
        yield record


class PeerFile(msgspec.Struct):
    """What a peer writes; all else in its file is taken for what it says of its training.

    Attributes:
        name: of its row. users: user numbers. lists: item numbers for each of them, best first.
    """

    name: str
    users: list[int]
    lists: list[list[int]]
    environment: dict[str, Any] = {}


def score_peer(path: Path, dataset: Dataset, digest: str, options: AccuracyOptions) -> tuple[ModelRecord, list[str]]:
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
    workload = ranking_workload(Task.SEQUENTIAL, dataset, users)
    metrics = list_metrics(padded([lists[user] for user in users.tolist()], LEAST_ACCURACY_K), workload, dataset)
    record = ModelRecord(
        label=peer.name,
        digest=file_sha256(path),
        dataset=digest,
        scheme=dataset.scheme,
        training={key: value for key, value in content.items() if key not in PeerFile.__struct_fields__},
        environment=peer.environment,
        measurements=(AccuracyRecord(engine=peer.name, task=Task.SEQUENTIAL, users=len(users), metrics=metrics),),
    )
    return record, notes
