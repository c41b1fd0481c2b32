"""Parts of ``podx bench accuracy`` by hand: rates, leaks, published figures, peers' files, options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podx.errors import ConfigError, DataError
from podx.text.templates import Task
from podx_bench.accuracy import published
from podx_bench.accuracy.datasets import leak_counts, score_peer
from podx_bench.accuracy.metrics import answer_metrics
from podx_bench.accuracy.options import AccuracyOptions, ModelInput, PeerInput, parse_model, parse_peer
from podx_bench.harness.records import AccuracyRecord
from podx_bench.pages.table import metric_column
from podx_bench.workload.scenarios import ranking_workload
from podx_bench.workload.work import Answer
from podx_train.data.folder import ExplanationRecord
from tests.bench.conftest import make_dataset
from tests.bench.records import write_peer

# --- rates ---


def test_wrong_answers_are_counted_by_kind() -> None:
    dataset = make_dataset()  # user 1 has 1, 2, 3, 4 and then 5; user 2 has 1, 2, 6 and then 7
    workload = ranking_workload(Task.SEQUENTIAL, dataset, np.array([1, 2]))
    answers = [
        Answer(items=("item-1", "item-5", None, "item-5", *(f"item-{n}" for n in range(7, 13)))),
        Answer(items=("item-8", "item-6", "item-2", *(None,) * 7)),
    ]
    found = answer_metrics(answers, workload, dataset)
    assert (found["hr_1"], found["hr_5"]) == (0.0, 0.5)
    assert found["ndcg_5"] == pytest.approx(0.5 / np.log2(3))
    assert found["invalid"] == pytest.approx(8 / 20)
    assert found["duplicate"] == pytest.approx(1 / 20)
    assert found["seen"] == pytest.approx(3 / 20)  # item-1 of user 1, item-6 and item-2 of user 2
    assert "outside" not in found


def test_answers_that_are_no_candidates_are_counted() -> None:
    dataset = make_dataset()  # user 1 chooses among 5, 6, 8, 10
    workload = ranking_workload(Task.TOPN, dataset, np.array([1]))
    found = answer_metrics([Answer(items=("item-5", "item-9", "item-3", None, "item-6"))], workload, dataset)
    assert found["hr_1"] == 1.0
    assert found["outside"] == pytest.approx(2 / 10)
    assert found["seen"] == pytest.approx(1 / 10)


def test_leaking_pairs_are_counted() -> None:
    records = [ExplanationRecord(1, 5, "good sound", "sound"), ExplanationRecord(2, 6, "a cable", "cable")]
    split = {"train": records, "val": [], "test": []}
    dataset = dataclasses.replace(make_dataset(), explanations=split)
    counts = leak_counts(dataset)  # test items 5 after 4, 7 after 6, 2 after 11
    assert counts == {"pairs": 3, "next_number": 2, "within_ten": 2, "explained_test": 1, "explained_validation": 1}


def test_seeds_become_mean_and_sample_deviation() -> None:
    def spread(*values: float) -> str:
        seeds = [AccuracyRecord(task="sequential", users=1, metrics={"hr_10": value}) for value in values]
        return metric_column("hr_10", "HR@10", "{:.4f}".format).cell(seeds)

    assert spread(0.25) == "0.2500"
    assert spread(0.1, 0.2, 0.3) == "0.2000 ± 0.1000"
    assert spread() == "–"


# --- published figures ---


def test_published_rows_are_those_of_the_paper() -> None:
    def row(dataset: str, task: Task, method: str) -> dict[str, float]:
        (found,) = [r for r in published.published_rows(dataset, task) if r.method == method]
        return dict(found.metrics)

    beauty = row(published.BEAUTY, Task.SEQUENTIAL, "POD")
    assert beauty == {"hr_5": 0.0537, "ndcg_5": 0.0395, "hr_10": 0.0688, "ndcg_10": 0.0443}
    assert published.LOGGED_HR_1[published.BEAUTY] == 0.0235
    assert row(published.SPORTS, Task.TOPN, "POD")["hr_1"] == 0.0895
    assert row(published.TOYS, Task.TOPN, "P5")["ndcg_10"] == 0.1114
    assert row(published.TOYS, Task.SEQUENTIAL, "SASRec")["hr_10"] == 0.0675
    assert row(published.BEAUTY, Task.EXPLANATION, "POD")["rouge_l"] == 11.3283
    times = {(r.method, r.task): r.time for r in published.TABLE_6}
    assert times[published.DROPPED, Task.SEQUENTIAL] == "22m17s" and times[published.KEPT, Task.TOPN] == "48m31s"
    assert published.COUNTS[22_363, 12_101] == published.BEAUTY
    assert published.COUNTS.get((3, 12)) is None


def test_every_published_figure_is_in_the_paper(shared_data: Path) -> None:
    paper = shared_data.parent / "papers" / "pod_paper.txt"
    if not paper.is_file():
        pytest.skip("the paper's text is not beside the data")
    lines = [line.split("\t") for line in paper.read_text(encoding="utf-8").splitlines()]
    printed = [[float(cell) for cell in cells[1:] if _is_number(cell)] for cells in lines]
    for task in Task:
        table = [row for row in published.ROWS if row.source == published.TABLES[task]]
        for method in {row.method for row in table}:
            figures = [value for row in table if row.method == method for value in row.metrics.values()]
            assert figures in printed, method


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).isdecimal()


# --- peers ---


def test_a_peer_is_scored_on_the_users_asked_for(tmp_path: Path) -> None:
    dataset = make_dataset()  # test items 5, 7, 2
    path = write_peer(tmp_path / "peer.json", [3, 1, 2], [[2, 4], [6, 5], [12]])
    record, notes = score_peer(path, dataset, "digest", AccuracyOptions())
    (found,) = record.measurements
    assert (found.task, found.users, found.metrics["hr_1"]) == ("sequential", 3, pytest.approx(1 / 3))
    assert found.metrics["hr_10"] == pytest.approx(2 / 3)
    assert (record.training, notes) == ({"seed": 1, "minutes": 2.5}, [])
    fewer = write_peer(tmp_path / "fewer.json", [3], [[2]])
    assert score_peer(fewer, dataset, "digest", AccuracyOptions())[1] == [
        "SASRec: its file has lists for 1 of the 3 users asked for"
    ]


@pytest.mark.parametrize(
    ("users", "lists", "message"),
    [
        ([4], [[1]], r"names user 4, but the dataset numbers its users 1\.\.3"),
        ([1], [[13]], r"names item 13, but the dataset numbers its items 1\.\.12"),
        ([1, 2], [[1]], "1 lists for 2 users"),
        ([1, 1], [[1], [2]], "users once"),
        (["u1"], [[1]], "'users' must be user numbers"),
    ],
)
def test_a_peer_of_other_data_is_refused(tmp_path: Path, users: Any, lists: Any, message: str) -> None:
    path = write_peer(tmp_path / "peer.json", users, lists)
    with pytest.raises(DataError, match=message):
        score_peer(path, make_dataset(), "digest", AccuracyOptions())


# --- options ---


def test_models_are_named_with_their_data() -> None:
    assert parse_model("POD, K=3=runs/a@b@data") == ModelInput("POD, K", Path("3=runs/a@b"), Path("data"))
    assert parse_peer("sasrec.json@data") == PeerInput(Path("sasrec.json"), Path("data"))
    for text in ("POD=bundle", "bundle@data", "=bundle@data", "POD=@data", "POD=bundle@"):
        with pytest.raises(ConfigError, match="LABEL=BUNDLE@DATA"):
            parse_model(text)
    with pytest.raises(ConfigError, match=r"FILE\.json@DATA"):
        parse_peer("sasrec.json")


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="--topn-users must be at least 1"):
        AccuracyOptions(topn_users=0)
    with pytest.raises(ConfigError, match="--beams 5 is too few"):
        AccuracyOptions(beams=5)
