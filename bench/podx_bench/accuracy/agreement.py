"""Accuracy of the engines of ``podx bench BUNDLE``, from the very processes that were timed, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from podx.metrics import RankingMetrics, overlap
from podx.text.templates import Task
from podx_bench.accuracy.metrics import answer_metrics, as_lists, item_numbers, list_metrics
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.harness.records import AccuracyRecord
from podx_bench.workload.baselines import baseline_lists
from podx_bench.workload.scenarios import Workload
from podx_bench.workload.work import Answer, EngineKind
from podx_train.data.dataset import Dataset

BATCH_SIZE, EAGER_BATCH_SIZE = 64, 16
OVERLAP_PLACES = 10


def score(
    engine: str, workload: Workload, answers: Sequence[Answer], seconds: float, dataset: Dataset
) -> AccuracyRecord:
    """Measure the answers to the first requests of a workload."""
    return AccuracyRecord(engine, workload.task, len(answers), seconds, answer_metrics(answers, workload, dataset))


def baseline_records(dataset: Dataset, workload: Workload, seed: int) -> list[AccuracyRecord]:
    """The rows that learn nothing, on all users of the workload."""
    lists = baseline_lists(dataset, workload, LEAST_ACCURACY_K, seed)
    return [
        AccuracyRecord(name, workload.task, len(workload), None, list_metrics(rows, workload, dataset))
        for name, rows in lists.items()
    ]


def compared(
    record: AccuracyRecord,
    answered: Mapping[str, Sequence[Answer]],
    reference: str,
    workload: Workload,
    dataset: Dataset,
) -> AccuracyRecord:
    """A record with how far its engine agrees with another, and what HR@10 that costs, on the users both answered."""
    answers, others = answered[record.engine], answered[reference]
    share, users = agreement(answers, others, dataset, workload.task)
    loss = None if workload.task is Task.EXPLANATION else hit_loss(answers, others, workload, dataset)
    return replace(record, overlap=share, overlap_with=reference, overlap_users=users, hr_10_loss=loss)


def agreement(
    answers: Sequence[Answer], reference: Sequence[Answer], dataset: Dataset, task: Task
) -> tuple[float, int]:
    """How far two engines agree on the users both answered (see :class:`AccuracyRecord`), and how many those are."""
    count = min(len(answers), len(reference))
    if task is Task.EXPLANATION:
        pairs = zip(answers[:count], reference[:count], strict=True)
        return float(np.mean([answer.text == other.text for answer, other in pairs])), count
    numbers = item_numbers(dataset)
    lists, others = (as_lists(part[:count], numbers, OVERLAP_PLACES) for part in (answers, reference))
    return overlap(lists, others, OVERLAP_PLACES), count


def hit_loss(
    answers: Sequence[Answer], reference: Sequence[Answer], workload: Workload, dataset: Dataset
) -> float | None:
    """See ``hr_10_loss`` of :class:`AccuracyRecord`."""
    count = min(len(answers), len(reference))
    numbers = item_numbers(dataset)
    hits, others = (
        RankingMetrics.of(as_lists(part[:count], numbers, OVERLAP_PLACES), workload.targets[:count]).hr_10
        for part in (answers, reference)
    )
    return (others - hits) / others if others else None


def comparison_order(kinds: Mapping[str, EngineKind]) -> list[str]:
    """Engines whose accuracy is measured, every one after its reference, so that comparing needs no second pass."""

    def depth(name: str) -> int:
        reference = kinds[name].reference
        return 1 + depth(reference) if reference is not None and reference in kinds else 0

    scored = [name for name, kind in kinds.items() if not kind.speed_only]
    return sorted(scored, key=lambda name: (depth(name), kinds[name].slow))
