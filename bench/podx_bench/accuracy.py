"""Accuracy of an engine's answers, taken from the very process that was timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import sacrebleu
from rouge_score import rouge_scorer

from podx.metrics import NOT_AN_ITEM, RankingMetrics, overlap
from podx.text.templates import Task
from podx_bench.engines import EngineKind
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.harness.records import AccuracyRecord
from podx_bench.latency.speed import Expired
from podx_bench.workload.baselines import baseline_lists
from podx_bench.workload.scenarios import Workload
from podx_bench.workload.work import Answer
from podx_train.data.dataset import Dataset

BATCH_SIZE = 64
EAGER_BATCH_SIZE = 16
OVERLAP_PLACES = 10
PERCENT = 100.0

IntArray = npt.NDArray[np.int64]
Progress = Callable[[int], None]
"""Told how many more users are done."""


def collect_answers(
    process: EngineProcess, users: int, batch_size: int, expired: Expired, progress: Progress
) -> tuple[list[Answer], float]:
    """Answers of requests 0 … users-1, fewer where the time runs out, and the seconds all calls took."""
    answers: list[Answer] = []
    seconds = 0.0
    while len(answers) < users and not expired():
        found, taken = process.answer(range(len(answers), min(users, len(answers) + batch_size)))
        answers += found
        seconds += taken
        progress(len(found))
    return answers, seconds


def as_lists(answers: Sequence[Answer], numbers: dict[str, int], k: int) -> IntArray:
    """Item numbers, [answers, k]; 0 for an answer that is no item, and where there are fewer than k."""
    lists = np.full((len(answers), k), NOT_AN_ITEM, dtype=np.int64)
    for row, answer in enumerate(answers):
        found = [NOT_AN_ITEM if raw is None else numbers.get(raw, NOT_AN_ITEM) for raw in answer.items[:k]]
        lists[row, : len(found)] = found
    return lists


def text_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU-4 of the corpus and mean sentence ROUGE F1, in percent.

    BLEU: one reference, words split at white space, unsmoothed. ROUGE: google's ``rouge-score`` without stemming.
    """
    bleu = sacrebleu.corpus_bleu(list(texts), [list(references)], smooth_method="none", tokenize="none", force=True)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    rouge = {
        name: PERCENT * float(np.mean([s[name].fmeasure for s in scores])) for name in ("rouge1", "rouge2", "rougeL")
    }
    return {"bleu_4": bleu.score, "rouge_1": rouge["rouge1"], "rouge_2": rouge["rouge2"], "rouge_l": rouge["rougeL"]}


def ranking_metrics(lists: IntArray, targets: IntArray) -> dict[str, float]:
    """The metrics of :class:`podx.metrics.RankingMetrics` but the number of users, by name."""
    metrics = asdict(RankingMetrics.of(lists, targets))
    del metrics["users"]
    return metrics


def score(
    engine: str, workload: Workload, answers: Sequence[Answer], seconds: float, dataset: Dataset
) -> AccuracyRecord:
    """Measure the answers to the first requests of a workload."""
    count = len(answers)
    if workload.task is Task.EXPLANATION:
        metrics = text_metrics([answer.text or "" for answer in answers], workload.references[:count])
    else:
        lists = as_lists(answers, item_numbers(dataset), LEAST_ACCURACY_K)
        metrics = ranking_metrics(lists, workload.targets[:count])
    return AccuracyRecord(engine, workload.task, count, seconds, metrics)


def item_numbers(dataset: Dataset) -> dict[str, int]:
    """Number of each raw item id."""
    return {raw: number for number, raw in enumerate(dataset.item_ids, start=1)}


def agreement(
    answers: Sequence[Answer], reference: Sequence[Answer], dataset: Dataset, task: Task
) -> tuple[float, int]:
    """How far two engines agree on the users both answered (see :class:`AccuracyRecord`), and how many those are."""
    count = min(len(answers), len(reference))
    if task is Task.EXPLANATION:
        pairs = zip(answers[:count], reference[:count], strict=True)
        return float(np.mean([own.text == other.text for own, other in pairs])), count
    numbers = item_numbers(dataset)
    own, other = (as_lists(part[:count], numbers, OVERLAP_PLACES) for part in (answers, reference))
    return overlap(own, other, OVERLAP_PLACES), count


def compared(
    record: AccuracyRecord,
    answered: Mapping[str, Sequence[Answer]],
    reference: str,
    workload: Workload,
    dataset: Dataset,
) -> AccuracyRecord:
    """A record with how far its engine agrees with another, and what HR@10 that costs, on the users both answered."""
    own, other = answered[record.engine], answered[reference]
    share, users = agreement(own, other, dataset, workload.task)
    loss = None if workload.task is Task.EXPLANATION else hit_loss(own, other, workload, dataset)
    return replace(record, overlap=share, overlap_with=reference, overlap_users=users, hr_10_loss=loss)


def hit_loss(
    answers: Sequence[Answer], reference: Sequence[Answer], workload: Workload, dataset: Dataset
) -> float | None:
    """See ``hr_10_loss`` of :class:`AccuracyRecord`."""
    count = min(len(answers), len(reference))
    numbers = item_numbers(dataset)
    own, other = (
        RankingMetrics.of(as_lists(part[:count], numbers, OVERLAP_PLACES), workload.targets[:count]).hr_10
        for part in (answers, reference)
    )
    return (other - own) / other if other else None


def comparison_order(kinds: Mapping[str, EngineKind]) -> list[str]:
    """Engines whose accuracy is measured, every one after its reference, so that comparing needs no second pass."""

    def depth(name: str) -> int:
        reference = kinds[name].reference
        return 1 + depth(reference) if reference is not None and reference in kinds else 0

    scored = [name for name, kind in kinds.items() if not kind.speed_only]
    return sorted(scored, key=lambda name: (depth(name), kinds[name].slow))


def baseline_records(dataset: Dataset, workload: Workload, seed: int) -> list[AccuracyRecord]:
    """The rows that learn nothing, on all users of the workload."""
    lists = baseline_lists(dataset, workload, LEAST_ACCURACY_K, seed)
    return [
        AccuracyRecord(name, workload.task, len(workload), None, ranking_metrics(rows, workload.targets))
        for name, rows in lists.items()
    ]
