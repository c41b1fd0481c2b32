"""Accuracy of answers: hits of the held-out items, shares of answers that no user should see, BLEU and ROUGE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import sacrebleu
from rouge_score import rouge_scorer

from podx.metrics import NOT_AN_ITEM, RankingMetrics
from podx.text.templates import Task
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.options import LEAST_ACCURACY_K
from podx_bench.pages.table import PERCENT
from podx_bench.workload.scenarios import TEST, Workload
from podx_bench.workload.work import Answer
from podx_train.data.dataset import Dataset

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
IntArray = npt.NDArray[np.int64]


def collect_answers(
    process: EngineProcess,
    users: int,
    call_size: int,
    progress: Callable[[int], None],
    expired: Callable[[], bool] = lambda: False,
) -> tuple[list[Answer], float]:
    """Answers to requests 0 … users-1, fewer where the time runs out, and the seconds all calls took.

    Args:
        call_size: requests of a call. progress: told after each how many are answered.
    """
    answers: list[Answer] = []
    seconds = 0.0
    while len(answers) < users and not expired():
        rows = list(range(len(answers), min(users, len(answers) + call_size)))
        given, taken = process.answer(rows)
        answers += given
        seconds += taken
        progress(len(answers))
    return answers, seconds


def item_numbers(dataset: Dataset) -> dict[str, int]:
    """Number of each raw item id."""
    return {raw: number for number, raw in enumerate(dataset.item_ids, start=1)}


def padded(rows: Sequence[Sequence[int]], k: int) -> IntArray:
    """The first k numbers of each row, [rows, k], 0 where there are fewer."""
    lists = np.full((len(rows), k), NOT_AN_ITEM, dtype=np.int64)
    for place, row in enumerate(rows):
        lists[place, : len(row[:k])] = row[:k]
    return lists


def as_lists(answers: Sequence[Answer], numbers: dict[str, int], k: int) -> IntArray:
    """Item numbers, [answers, k]; 0 for an answer that is no item, and where there are fewer than k."""
    return padded([[numbers.get(raw or "", NOT_AN_ITEM) for raw in answer.items] for answer in answers], k)


def answer_metrics(answers: Sequence[Answer], workload: Workload, dataset: Dataset) -> dict[str, float]:
    """The metrics of :class:`podx_bench.accuracy.records.Measurement`, of answers to a workload's first requests."""
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
    bleu = sacrebleu.corpus_bleu(list(texts), [list(references)], smooth_method="none", tokenize="none", force=True)
    scorer = rouge_scorer.RougeScorer(list(ROUGE.values()), use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    rouge = {name: PERCENT * float(np.mean([s[key].fmeasure for s in scores])) for name, key in ROUGE.items()}
    return {"bleu_4": bleu.score, **rouge}
