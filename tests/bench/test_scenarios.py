"""From a test split to requests."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from podx.errors import ConfigError, DataError
from podx.text.templates import ALL_TASKS, Task
from podx_bench.workload.inputs import require_match
from podx_bench.workload.scenarios import build_workload, choose_tasks, user_order
from podx_train.data.dataset import Dataset


class WordTokenizer:
    """A piece per word."""

    def encode(self, text: str) -> list[str]:
        return text.split()

    def decode(self, words: list[str]) -> str:
        return " ".join(words)


def bundle_of(dataset: Dataset, tasks: tuple[Task, ...] = ALL_TASKS, max_history: int = 20) -> Any:
    """What the bench looks at in a bundle, as if exported from ``dataset``."""

    def table(names: list[str]) -> SimpleNamespace:
        return SimpleNamespace(raw_ids=np.array([name.encode() for name in names]))

    return SimpleNamespace(
        manifest=SimpleNamespace(tasks=tasks, answered=tasks, max_history=max_history, one_pass=False),
        catalog=SimpleNamespace(items=table(dataset.item_ids)),
        users=SimpleNamespace(ids=table(dataset.user_ids), items=dataset.items, offsets=dataset.offsets),
        tokenizer=WordTokenizer(),
    )


def test_a_sequential_request_is_everything_but_the_test_item(dataset: Dataset) -> None:
    work = build_workload(Task.SEQUENTIAL, dataset, bundle_of(dataset), None, seed=0)
    by_user = dict(zip(work.users.tolist(), work.requests, strict=True))
    assert by_user[1].user == "carol"
    assert by_user[1].items == ("item-1", "item-2", "item-3", "item-4")
    assert dict(zip(work.users.tolist(), work.targets.tolist(), strict=True)) == {1: 5, 2: 7, 3: 2}


def test_a_long_history_keeps_its_end_and_excludes_its_start(dataset: Dataset) -> None:
    work = build_workload(Task.SEQUENTIAL, dataset, bundle_of(dataset, max_history=3), None, seed=0)
    by_user = dict(zip(work.users.tolist(), work.requests, strict=True))
    assert by_user[1].items == ("item-2", "item-3", "item-4")
    assert by_user[1].exclude == ("item-1",)
    assert by_user[2].exclude == ()


def test_candidates_are_the_target_and_its_negatives_in_a_fixed_order(dataset: Dataset) -> None:
    first, again = (build_workload(Task.TOPN, dataset, bundle_of(dataset), None, seed) for seed in (0, 1))
    by_user = dict(zip(first.users.tolist(), first.requests, strict=True))
    assert sorted(by_user[1].items) == ["item-10", "item-5", "item-6", "item-8"]
    assert [f"item-{n}" for n in first.candidates[0]] == list(first.requests[0].items)
    assert by_user == dict(zip(again.users.tolist(), again.requests, strict=True))


def test_explanations_are_test_records_with_references_cut(dataset: Dataset) -> None:
    record = dataclasses.replace(dataset.explanations["test"][0], explanation=" ".join("abcdefghijklmnopqrstuvwxyz"))
    long = dataclasses.replace(dataset, explanations={**dataset.explanations, "test": [record]})
    work = build_workload(Task.EXPLANATION, long, bundle_of(long), None, seed=0)
    assert work.requests[0].user == "carol" and work.requests[0].items == ("item-5",)
    assert work.references == ("a b c d e f g h i j k l m n o p q r s t",)


def test_fewer_users_are_the_first_of_more(dataset: Dataset) -> None:
    every = build_workload(Task.SEQUENTIAL, dataset, bundle_of(dataset), None, seed=3)
    fewer = build_workload(Task.SEQUENTIAL, dataset, bundle_of(dataset), 2, seed=3)
    assert fewer.requests == every.requests[:2] == every.head(2).requests
    assert (every.head(2).targets == fewer.targets).all()


@pytest.mark.parametrize("task", ALL_TASKS)
def test_file_order_is_that_of_the_dataset(dataset: Dataset, task: Task) -> None:
    work = build_workload(task, dataset, bundle_of(dataset), 2, seed=3, file_order=True)
    assert [request.user for request in work.requests] == ["carol", "alice"]


def test_the_same_people_are_asked_under_every_numbering() -> None:
    names = [f"user-{n}" for n in range(50)]
    shuffled = np.random.default_rng(5).permutation(names).tolist()
    orders = [
        [ids[number - 1] for number in user_order(SimpleNamespace(user_ids=ids), seed=2)]  # type: ignore[arg-type]
        for ids in (names, shuffled)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != names


def test_a_bundle_of_another_dataset_is_refused(dataset: Dataset) -> None:
    require_match(bundle_of(dataset), dataset)
    shorter = dataclasses.replace(dataset, item_ids=[*dataset.item_ids, "item-13"])
    with pytest.raises(ConfigError, match="knows 13 items, the dataset has 12"):
        require_match(bundle_of(shorter), dataset)
    renumbered = dataclasses.replace(dataset, user_ids=["alice", "carol", "bob"])
    with pytest.raises(ConfigError, match="users differ from the dataset's: number 1 is 'alice' in one and 'carol'"):
        require_match(bundle_of(renumbered), dataset)
    others = dataclasses.replace(dataset, items=dataset.items[::-1].copy())
    with pytest.raises(ConfigError, match="users have other items than the dataset's"):
        require_match(bundle_of(others), dataset)


def test_tasks_are_those_that_bundle_and_data_have(dataset: Dataset) -> None:
    assert choose_tasks(bundle_of(dataset), dataset, None) == ALL_TASKS
    silent = dataclasses.replace(dataset, explanations={"train": [], "val": [], "test": []})
    assert choose_tasks(bundle_of(silent), silent, None) == (Task.SEQUENTIAL, Task.TOPN)
    with pytest.raises(DataError, match="no test explanations"):
        choose_tasks(bundle_of(silent), silent, (Task.EXPLANATION,))
    with pytest.raises(ConfigError, match="--tasks names topn, but the bundle was trained for sequential only"):
        choose_tasks(bundle_of(dataset, (Task.SEQUENTIAL,)), dataset, (Task.SEQUENTIAL, Task.TOPN))
