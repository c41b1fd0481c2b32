"""How much of the held-out data a dataset gives away, and the rows that learn nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.text.templates import Task
from podx_bench.accuracy.metrics import list_metrics
from podx_bench.accuracy.options import AccuracyOptions
from podx_bench.accuracy.records import CONSTRAINED, DatasetRecord, MeasuredFile, Measurement
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.workload.baselines import baseline_lists
from podx_bench.workload.scenarios import TEST, Workload, user_order
from podx_bench.workload.work import WorkItem
from podx_train.batches.samplers import evaluation_topn
from podx_train.data.dataset import Dataset
from podx_train.data.stats import dataset_stats

RANKING_TASKS = (Task.SEQUENTIAL, Task.TOPN)


def dataset_digest(folder: Path) -> str:
    """Hex digest of the names and bytes of a dataset folder's files."""
    digest = hashlib.sha256()
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


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


def ranked_users(task: Task, dataset: Dataset, users: npt.NDArray[np.int64]) -> Workload:
    """What is known to be right for users of a ranking task; the requests hold the users alone."""
    targets = np.array([dataset.test_item(user) for user in users.tolist()], dtype=np.int64)
    requests = tuple(WorkItem(dataset.user_ids[user - 1], ()) for user in users.tolist())
    candidates: tuple[npt.NDArray[np.int64], ...] = ()
    if task is Task.TOPN:
        candidates = tuple(evaluation_topn(dataset, user, TEST) for user in users.tolist())
    return Workload(task, requests, users, targets, candidates)


def asked_users(task: Task, dataset: Dataset, options: AccuracyOptions) -> npt.NDArray[np.int64]:
    """Numbers of the users that a ranking task is measured on."""
    return user_order(dataset, options.seed)[: options.limit(task)]


def describe_dataset(
    dataset: Dataset, path: Path, digest: str, options: AccuracyOptions, file: MeasuredFile
) -> DatasetRecord:
    """Leaks of a dataset and its rows that learn nothing, on the users the options ask for; kept in ``file``."""
    record = file.load(DatasetRecord)
    if record is None:
        stats, leaks = dataclasses.asdict(dataset_stats(dataset)), leak_counts(dataset)
        codes = max(map(len, dataset.item_codes or ()), default=0)
        record = DatasetRecord(path.resolve().name, dataset.scheme, digest, stats, leaks, codes=codes)
        file.save(record)
    for task in (task for task in RANKING_TASKS if task in (options.tasks or RANKING_TASKS)):
        users = asked_users(task, dataset, options)
        if any((m.task, m.users) == (task, len(users)) for rows in record.rows.values() for m in rows):
            continue
        rows, workload = dict(record.rows), ranked_users(task, dataset, users)
        for name, lists in baseline_lists(dataset, workload, LEAST_ACCURACY_K, options.seed).items():
            measurement = Measurement(task, CONSTRAINED, len(users), None, list_metrics(lists, workload, dataset))
            rows[name] = (*rows.get(name, ()), measurement)
        record = dataclasses.replace(record, rows=rows)
        file.save(record)
    return record
