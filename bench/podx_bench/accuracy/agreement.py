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
    count = min(len(answered[record.engine]), len(answered[reference]))
    answers, others = (answered[name][:count] for name in (record.engine, reference))
    loss = None
    if workload.task is Task.EXPLANATION:
        share = float(np.mean([answer.text == other.text for answer, other in zip(answers, others, strict=True)]))
    else:
        numbers, targets = item_numbers(dataset), workload.targets[:count]
        ours, theirs = (as_lists(part, numbers, OVERLAP_PLACES) for part in (answers, others))
        share = overlap(ours, theirs, OVERLAP_PLACES)
        hits, wanted = (RankingMetrics.of(lists, targets).hr_10 for lists in (ours, theirs))
        loss = (wanted - hits) / wanted if wanted else None
    return replace(record, overlap=share, overlap_with=reference, overlap_users=count, hr_10_loss=loss)


def comparison_order(kinds: Mapping[str, EngineKind]) -> list[str]:
    """Engines whose accuracy is measured, every one after its reference, so that comparing needs no second pass."""

    def depth(name: str) -> int:
        reference = kinds[name].reference
        return 1 + depth(reference) if reference is not None and reference in kinds else 0

    scored = [name for name, kind in kinds.items() if not kind.speed_only]
    return sorted(scored, key=lambda name: (depth(name), kinds[name].slow))
