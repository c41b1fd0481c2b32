"""Accuracy of answers: hits of the held-out items, shares of answers that no user should see, BLEU and ROUGE.

``podx bench`` and ``podx bench accuracy`` both measure it here. Of the engines of the first it is that of the very
processes that were timed, and how far they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import sacrebleu

from podx.metrics import NOT_AN_ITEM, RankingMetrics, overlap
from podx.text.templates import Task
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.child import Tell
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.harness.records import CONSTRAINED, TEXT, UNCONSTRAINED, AccuracyRecord
from podx_bench.harness.resources import about
from podx_bench.latency.speed import Expired
from podx_bench.pages.table import PERCENT
from podx_bench.workload.baselines import baseline_lists, padded
from podx_bench.workload.scenarios import TEST, Workload
from podx_bench.workload.work import Answer, EngineKind
from podx_train.data.dataset import Dataset

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
IntArray = npt.NDArray[np.int64]
BATCH_SIZE, EAGER_BATCH_SIZE = 64, 16
OVERLAP_PLACES = 10


def measure(
    engine: str,
    process: EngineProcess,
    workload: Workload,
    users: int,
    call_size: int,
    dataset: Dataset,
    tell: Tell,
    expired: Expired = lambda: False,
) -> tuple[AccuracyRecord | None, list[Answer]]:
    """Ask an engine's process the first ``users`` requests of a workload, and score its answers.

    Args:
        call_size: requests of a call. tell: told after each how many are answered.

    Returns:
        the record, None where the time was over before the first answer; and the answers, fewer where it ran out.
    """
    answers: list[Answer] = []
    seconds = 0.0
    while len(answers) < users and not expired():
        given, taken = process.answer(range(len(answers), min(users, len(answers) + call_size)))
        answers += given
        seconds += taken
        left = about(seconds / len(answers) * (users - len(answers)))
        tell(f"{workload.task}: accuracy of {engine}, {len(answers):,} of {users:,} users, {left} left")
    return (score(engine, workload, answers, seconds, dataset) if answers else None), answers


def item_numbers(dataset: Dataset) -> dict[str, int]:
    """Number of each raw item id."""
    return {raw: number for number, raw in enumerate(dataset.item_ids, start=1)}


def as_lists(answers: Sequence[Answer], numbers: dict[str, int], k: int) -> IntArray:
    """Item numbers, [answers, k]; 0 for an answer that is no item, and where there are fewer than k."""
    return padded([[numbers.get(raw or "", NOT_AN_ITEM) for raw in answer.items] for answer in answers], k)


def answer_metrics(answers: Sequence[Answer], workload: Workload, dataset: Dataset) -> dict[str, float]:
    """The metrics of :class:`podx_bench.harness.records.AccuracyRecord`, of answers to a workload's first requests."""
    workload = workload.head(len(answers))
    if workload.task is Task.EXPLANATION:
        return text_metrics([answer.text or "" for answer in answers], workload.references)
    return list_metrics(as_lists(answers, item_numbers(dataset), LEAST_ACCURACY_K), workload, dataset)


def list_metrics(lists: IntArray, workload: Workload, dataset: Dataset) -> dict[str, float]:
    """Hits, and the shares of the answers that no user should see.

    Args:
        lists: item numbers, [users, at least 10], 0 for what is no item; of the workload's users.
    """
    metrics = asdict(RankingMetrics.of(lists, workload.targets))
    del metrics["users"]
    histories = [dataset.history(user, TEST) for user in workload.users.tolist()]
    metrics["seen"] = _share_inside(lists, histories)
    if workload.task is Task.TOPN:
        metrics["outside"] = float((lists != NOT_AN_ITEM).mean()) - _share_inside(lists, workload.candidates)
    return metrics


def _share_inside(lists: IntArray, sets: Sequence[npt.NDArray[np.integer]]) -> float:
    """Share of all places whose answer is in the set of its row."""
    inside = [np.isin(row, items).sum() for row, items in zip(lists, sets, strict=True)]
    return float(np.sum(inside)) / lists.size


def text_metrics(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU-4 of the corpus and mean sentence ROUGE F1, in percent.

    BLEU: one reference, words split at white space, unsmoothed. ROUGE: google's ``rouge-score`` without stemming.
    """
    from rouge_score import rouge_scorer  # loads nltk and scipy, which take seconds

    bleu = sacrebleu.corpus_bleu(list(texts), [list(references)], smooth_method="none", tokenize="none", force=True)
    scorer = rouge_scorer.RougeScorer(list(ROUGE.values()), use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    rouge = {name: PERCENT * float(np.mean([s[key].fmeasure for s in scores])) for name, key in ROUGE.items()}
    return {"bleu_4": bleu.score, **rouge}


def score(
    engine: str, workload: Workload, answers: Sequence[Answer], seconds: float, dataset: Dataset
) -> AccuracyRecord:
    """Measure the answers to the first requests of a workload."""
    searched = UNCONSTRAINED if engine.endswith(UNCONSTRAINED) else CONSTRAINED
    return AccuracyRecord(
        engine=engine,
        task=workload.task,
        decoding=TEXT if workload.task is Task.EXPLANATION else searched,
        users=len(answers),
        seconds=seconds,
        metrics=answer_metrics(answers, workload, dataset),
    )


def baseline_records(dataset: Dataset, workload: Workload, seed: int) -> list[AccuracyRecord]:
    """The rows that learn nothing, on all users of the workload."""
    return [
        AccuracyRecord(
            engine=name, task=workload.task, users=len(workload), metrics=list_metrics(rows, workload, dataset)
        )
        for name, rows in baseline_lists(dataset, workload, LEAST_ACCURACY_K, seed).items()
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
