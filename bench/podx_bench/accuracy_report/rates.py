"""What is wrong with answers, beside missing the held-out item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podx.metrics import NOT_AN_ITEM
from podx.text.templates import Task
from podx_bench.accuracy import ranking_metrics
from podx_bench.workload.scenarios import TEST, Workload
from podx_train.data.dataset import Dataset

IntArray = npt.NDArray[np.int64]


def share_inside(lists: IntArray, sets: Sequence[npt.NDArray[np.integer]]) -> float:
    """Share of all places whose answer is in the set of its row. Lists [users, k], one set of item numbers per row."""
    inside = [np.isin(row, items).sum() for row, items in zip(lists, sets, strict=True)]
    return float(np.sum(inside)) / lists.size


def list_metrics(lists: IntArray, workload: Workload, dataset: Dataset) -> dict[str, float]:
    """Hits, and the shares of the answers that no user should see (:class:`.records.Measurement`).

    Args:
        lists: item numbers, [users, at least 10], 0 for what is no item; of the workload's users.
    """
    metrics = ranking_metrics(lists, workload.targets)
    histories = [dataset.history(user, TEST) for user in workload.users.tolist()]
    metrics["seen"] = share_inside(lists, histories)
    if workload.task is Task.TOPN:
        items = float((lists != NOT_AN_ITEM).mean())
        metrics["outside"] = items - share_inside(lists, workload.candidates)
    return metrics
