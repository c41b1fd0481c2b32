"""Metrics of answers, and rows that learn nothing, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from podx.text.templates import Task
from podx_bench.accuracy.metrics import (
    as_lists,
    baseline_records,
    compared,
    comparison_order,
    item_numbers,
    measure,
    score,
    text_metrics,
)
from podx_bench.harness.records import AccuracyRecord
from podx_bench.workload.baselines import (
    near_users,
    next_numbers,
    popular_candidates,
    popular_unseen,
    popularity_order,
    random_candidates,
)
from podx_bench.workload.scenarios import Workload
from podx_bench.workload.work import Answer, EngineKind
from podx_train.data.dataset import Dataset

USERS = np.array([1, 2, 3])
TARGETS = np.array([5, 7, 2])


def workload(task: Task) -> Workload:
    candidates = (np.array([6, 5, 8, 10]), np.array([8, 7, 9, 10]), np.array([4, 2, 5, 6]))
    return Workload(task, (None,) * 3, USERS, TARGETS, candidates if task is Task.TOPN else ())  # type: ignore[arg-type]


def test_popularity_counts_training_items_only(dataset: Dataset) -> None:
    # training parts: [1, 2, 3], [1, 2], [1, 9]
    assert popularity_order(dataset).tolist() == [1, 2, 3, 9, 4, 5, 6, 7, 8, 10, 11, 12]


def test_popularity_leaves_out_what_was_seen_before_the_test(dataset: Dataset) -> None:
    rows = popular_unseen(dataset, USERS, 3)
    assert rows.tolist() == [[9, 5, 6], [3, 9, 4], [2, 3, 4]]  # user 2 saw 1, 2, 6; user 3 saw 1, 9, 11


def test_popularity_fills_up_where_nothing_is_left(dataset: Dataset) -> None:
    rows = popular_unseen(dataset, np.array([1]), 10)
    assert rows[0, :8].tolist() == [9, 5, 6, 7, 8, 10, 11, 12]
    assert rows[0, 8:].tolist() == [0, 0]


def test_next_numbers_follow_the_largest_of_the_history_and_end_with_the_catalogue(dataset: Dataset) -> None:
    assert next_numbers(dataset, USERS, 3).tolist() == [[5, 6, 7], [7, 8, 9], [12, 0, 0]]


def test_near_users_vote_for_their_training_items_by_distance(dataset: Dataset) -> None:
    # user 3 gets 2 from user 2 (1) and user 1 (1/2), and 3 from user 1 alone
    assert near_users(dataset, USERS, 3).tolist() == [[9, 0, 0], [3, 9, 0], [2, 3, 0]]


def test_candidates_by_popularity_and_at_random(dataset: Dataset) -> None:
    candidates = (np.array([10, 9, 2]), np.array([12, 3, 4]))
    assert popular_candidates(dataset, candidates, 2).tolist() == [[2, 9], [3, 4]]
    drawn = random_candidates(candidates, 5, seed=1)
    assert [sorted(row[:3].tolist()) for row in drawn] == [[2, 9, 10], [3, 4, 12]]
    assert drawn[:, 3:].max() == 0
    assert (drawn == random_candidates(candidates, 5, seed=1)).all()


def test_rows_that_learn_nothing_are_measured_like_engines(dataset: Dataset) -> None:
    rows = {record.engine: record for record in baseline_records(dataset, workload(Task.SEQUENTIAL), seed=0)}
    assert list(rows) == ["popularity", "max(history)+1", "near user numbers"]
    assert rows["max(history)+1"].metrics["hr_1"] == pytest.approx(2 / 3)  # targets 5, 7, 2 after 4, 6, 11
    assert rows["popularity"].metrics["hr_1"] == pytest.approx(1 / 3)
    assert rows["popularity"].users == 3 and rows["popularity"].seconds is None
    top_n = {record.engine: record for record in baseline_records(dataset, workload(Task.TOPN), seed=0)}
    assert list(top_n) == ["popularity", "random"]
    assert top_n["random"].metrics["hr_5"] == 1.0  # four candidates, all of them among five
    assert baseline_records(dataset, workload(Task.EXPLANATION), seed=0) == []


def test_lists_hold_numbers_and_0_for_what_is_no_item(dataset: Dataset) -> None:
    answers = [Answer(items=("item-3", None, "item-12")), Answer(items=("elsewhere",)), Answer()]
    lists = as_lists(answers, item_numbers(dataset), 3)
    assert lists.tolist() == [[3, 0, 12], [0, 0, 0], [0, 0, 0]]


def test_score_counts_hits_invalid_and_repeated_answers(dataset: Dataset) -> None:
    ten = [f"item-{n}" for n in (5, 1, 1, 2, 3, 4, 6, 8, 9)]
    answers = [
        Answer(items=(*ten, None)),
        Answer(items=tuple(f"item-{n}" for n in (1, 7, *range(2, 7), *range(8, 11)))),
    ]
    record = score("mine", workload(Task.SEQUENTIAL), answers, 1.5, dataset)
    assert record.users == 2 and record.seconds == 1.5
    assert record.metrics["hr_1"] == 0.5
    assert record.metrics["ndcg_5"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert record.metrics["invalid"] == pytest.approx(1 / 20)
    assert record.metrics["duplicate"] == pytest.approx(1 / 20)


def test_equal_texts_score_full_marks_and_strangers_none() -> None:
    text = ["the sound is good and clear", "a cable that lasts for years"]
    same = text_metrics(text, text)
    assert same["bleu_4"] == pytest.approx(100.0)
    assert same["rouge_1"] == same["rouge_2"] == same["rouge_l"] == pytest.approx(100.0)
    assert text_metrics(["one two three four"] * 2, text) == {"bleu_4": 0, "rouge_1": 0, "rouge_2": 0, "rouge_l": 0}


def test_text_metrics_by_hand() -> None:
    metrics = text_metrics(["a b c d e"], ["a b c d f"])
    # precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty
    assert metrics["bleu_4"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert metrics["rouge_1"] == pytest.approx(80.0)
    assert metrics["rouge_2"] == pytest.approx(75.0)
    assert metrics["rouge_l"] == pytest.approx(80.0)


def test_bleu_is_neither_smoothed_nor_tokenised() -> None:
    assert text_metrics(["a b c"], ["a b c"])["bleu_4"] == 0.0  # no 4-gram at all
    assert text_metrics(["a b c d."], ["a b c d ."])["bleu_4"] == 0.0


def comparison(answers: list[Answer], others: list[Answer], task: Task, dataset: Dataset) -> AccuracyRecord:
    """What is said of an engine's answers beside another's."""
    record = score("int8", workload(task), answers, 1.0, dataset) if task is not Task.EXPLANATION else TEXTS
    return compared(record, {"int8": answers, "fp32": others}, "fp32", workload(task), dataset)


TEXTS = AccuracyRecord(engine="int8", task=Task.EXPLANATION, users=2, seconds=1.0, metrics={})


def test_agreement_is_on_the_users_both_answered(dataset: Dataset) -> None:
    own = [Answer(items=("item-1", "item-2")), Answer(items=("item-3", "item-4")), Answer(items=("item-5",))]
    other = [Answer(items=("item-2", "item-1")), Answer(items=("item-3", "item-9"))]
    found = comparison(own, other, Task.SEQUENTIAL, dataset)
    assert (found.overlap, found.overlap_users) == (0.75, 2)
    texts, others = [Answer(text="a"), Answer(text="b")], [Answer(text="a"), Answer(text="c")]
    found = comparison(texts, others, Task.EXPLANATION, dataset)
    assert (found.overlap, found.overlap_users, found.hr_10_loss) == (0.5, 2, None)


def test_what_a_precision_costs_is_a_share_of_the_hits_of_its_reference(dataset: Dataset) -> None:
    # targets 5, 7, 2
    exact = [Answer(items=("item-5",)), Answer(items=("item-7",)), Answer(items=("item-1",))]
    coarse = [Answer(items=("item-5",)), Answer(items=("item-1",))]
    assert comparison(exact, coarse, Task.SEQUENTIAL, dataset).hr_10_loss == -1.0
    assert comparison(exact, [Answer(items=("item-1",))], Task.SEQUENTIAL, dataset).hr_10_loss is None
    found = comparison(coarse, exact, Task.SEQUENTIAL, dataset)
    assert (found.overlap, found.overlap_with, found.overlap_users, found.hr_10_loss) == (0.5, "fp32", 2, 0.5)


def test_every_engine_is_scored_after_its_reference_and_those_that_only_time_not_at_all() -> None:
    def kind(name: str, **more: Any) -> EngineKind:
        return EngineKind(name, "", make=lambda _: None, **more)  # type: ignore[arg-type, return-value]

    kinds = (
        kind("int8", reference="fp32"),
        kind("peer", speed_only=True),
        kind("fp32", reference="eager"),
        kind("slow", reference="eager", slow=True),
        kind("eager", slow=True),
        kind("apart", reference="not here"),
    )
    assert comparison_order({one.name: one for one in kinds}) == ["apart", "eager", "fp32", "slow", "int8"]


def test_answers_are_collected_in_batches_until_the_time_is_up(dataset: Dataset) -> None:
    class Process:
        def answer(self, rows: range) -> tuple[list[Answer], float]:
            return [Answer(text=str(row)) for row in rows], 0.5

    told: list[str] = []
    texts = Workload(Task.EXPLANATION, (None,) * 5, USERS, TARGETS, references=("a",) * 5)  # type: ignore[arg-type]
    asked = ("mine", Process(), texts, 5, 2, dataset, told.append)
    record, answers = measure(*asked)  # type: ignore[arg-type]
    assert [answer.text for answer in answers] == ["0", "1", "2", "3", "4"]
    assert record is not None and (record.seconds, record.users, record.decoding) == (1.5, 5, "text")
    assert told == [f"explanation: accuracy of mine, {done} of 5 users, less than a minute left" for done in (2, 4, 5)]
    times = iter([False, True])
    _, answers = measure(*asked, lambda: next(times))  # type: ignore[arg-type]
    assert len(answers) == 2
    assert measure(*asked, lambda: True) == (None, [])  # type: ignore[arg-type]
