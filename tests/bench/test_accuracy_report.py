"""``podx bench accuracy``: rates by hand, real bundles in real processes, the report, the command line."""

from __future__ import annotations

import dataclasses
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.accuracy.metrics import measure
from podx_bench.accuracy.options import AccuracyOptions, ModelInput
from podx_bench.accuracy.records import ACCURACY_FILE, AccuracyResults, DatasetRecord
from podx_bench.accuracy.report import write_accuracy
from podx_bench.accuracy.rows import methods
from podx_bench.accuracy.run import MEASURED_FOLDER, run_accuracy
from podx_bench.accuracy.tables import accuracy_table, all_tables, decoding_table, template_table
from podx_bench.cli.app import app
from podx_bench.harness.records import CONSTRAINED, UNCONSTRAINED, AccuracyRecord
from podx_bench.workload.work import Answer
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.data.folder import ExplanationRecord
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.bench.records import write_peer
from tests.bench.world import engines_here

USERS, ITEMS, LENGTH = 24, 50, 6
QUICK = AccuracyOptions(unconstrained_users=4, threads=1, batch_size=8, timed_users=8, rounds=1)


def world(prefix: str = "item", step: int = 7) -> Dataset:
    """Users who walk through the catalogue."""
    starts = np.random.default_rng(3).integers(0, ITEMS, size=(USERS, 1))
    items = (starts + step * np.arange(LENGTH)) % ITEMS + 1
    records = [ExplanationRecord(user, int(items[user - 1, 0]), "it sounds good to me", "good") for user in range(1, 7)]
    return Dataset(
        items=items.astype(np.int32).ravel(),
        offsets=np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        user_ids=[f"user-{n}" for n in range(USERS)],
        item_ids=[f"{prefix}-{n}" for n in range(ITEMS)],
        explanations={"train": records[:3], "val": records[3:4], "test": records[4:]},
        scheme="paper",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and bundles of two seeds."""
    root = tmp_path_factory.mktemp("models")
    dataset = world()
    dataset.save(root / "data")
    for seed in (0, 1):
        options = TrainOptions(epochs=1, device="cpu", max_history=3, seed=seed, batch_size=16)
        train_model(dataset, root / f"checkpoint{seed}", options, Source(preset="tiny", pieces=120))
        export_checkpoint(root / f"checkpoint{seed}", root / f"bundle{seed}", parity_users=2)
    return root


def seeds(root: Path) -> list[ModelInput]:
    """Both bundles under one label."""
    return [ModelInput("POD", root / f"bundle{seed}", root / "data") for seed in (0, 1)]


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AccuracyResults, Path]:
    """A study of all tasks, and its folder. Its engines have no processes; those of a killed run have."""
    out = tmp_path_factory.mktemp("out")
    with engines_here():
        return run_accuracy(seeds(folder), [], out, QUICK), out


# --- measuring ---


def test_every_task_is_measured_freely_and_within_the_catalogue(measured: tuple[AccuracyResults, Path]) -> None:
    study, _ = measured
    assert [(record.label, record.training["seed"]) for record in study.models] == [("POD", 0), ("POD", 1)]
    for record in study.models:
        cells = [(m.task, m.decoding, m.users) for m in record.measurements]
        expected = [
            (task, decoding, users)
            for task in ("sequential", "topn")
            for decoding, users in ((CONSTRAINED, USERS), (CONSTRAINED, 4), (UNCONSTRAINED, 4))
        ]
        assert cells == [*expected, ("explanation", "text", 2)]
        within = record.find(Task.TOPN, CONSTRAINED)
        assert within is not None and within.ms_per_user is not None and within.ms_per_user > 0
        assert {within.metrics[rate] for rate in ("invalid", "duplicate", "outside")} == {0.0}
        seen = record.find(Task.SEQUENTIAL, CONSTRAINED)
        assert seen is not None and seen.metrics["seen"] == 0.0
        assert record.training["updates"] > 0 and record.training["train_seconds"] > 0
    names = {name for name, rows in study.datasets[0].rows.items() if any(m.task == "sequential" for m in rows)}
    assert names == {"popularity", "max(history)+1", "near user numbers"}


def test_all_models_are_timed_in_turns(measured: tuple[AccuracyResults, Path]) -> None:
    study, _ = measured
    assert [(record.task, record.users, record.batch_size) for record in study.timings] == [
        ("sequential", 8, 8),
        ("topn", 8, 8),
        ("explanation", 2, 2),
    ]
    assert set(study.timings[0].ms_per_user) == {study.models[0].key}  # the second seed does the same work


def test_what_is_measured_is_not_measured_again(
    folder: Path, measured: tuple[AccuracyResults, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = measured
    assert ACCURACY_FILE.read(out / ACCURACY_FILE.name) == study

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("podx_bench.accuracy.run.EngineProcess", refuse)
    monkeypatch.setattr("podx_bench.accuracy.datasets.baseline_records", refuse)
    again = run_accuracy(seeds(folder), [], out, QUICK)
    assert again.models == study.models
    assert again.timings == study.timings
    with pytest.raises(AssertionError, match="a process was started"):
        run_accuracy(
            seeds(folder), [], out, dataclasses.replace(QUICK, users=5, timed_users=0, tasks=(Task.TOPN,), topn_users=5)
        )


def test_a_killed_run_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = dataclasses.replace(QUICK, tasks=(Task.SEQUENTIAL,), users=6, timed_users=0)
    made: list[AccuracyRecord] = []

    def killed(*arguments: Any) -> tuple[AccuracyRecord | None, list[Answer]]:
        if len(made) == 2:
            raise KeyboardInterrupt
        record, answers = measure(*arguments)
        assert record is not None
        made.append(record)
        return record, answers

    monkeypatch.setattr("podx_bench.accuracy.run.measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run_accuracy(seeds(folder)[:1], [], tmp_path, options)
    assert len(ACCURACY_FILE.read(tmp_path / ACCURACY_FILE.name).models[0].measurements) == 2
    made.clear()
    study = run_accuracy(seeds(folder)[:1], [], tmp_path, options)
    assert [(record.decoding, record.users) for record in made] == [(UNCONSTRAINED, 4)]  # the last of three
    assert len(study.models[0].measurements) == 3
    assert not list((tmp_path / MEASURED_FOLDER).glob("*.partial"))


# --- report ---


def as_beauty(study: AccuracyResults) -> AccuracyResults:
    """The study as if its data had Beauty's counts."""
    (data,) = study.datasets
    counted = dataclasses.replace(data, stats={**data.stats, "users": 22_363, "items": 12_101})
    return dataclasses.replace(study, datasets=(counted,))


def test_rows_of_the_paper_and_of_seeds_stand_in_one_table(measured: tuple[AccuracyResults, Path]) -> None:
    study = as_beauty(measured[0])
    table = accuracy_table(study, Task.SEQUENTIAL)
    rows = {row[0]: row for row in table.rows}
    assert rows["POD"][2] == "reported" and rows["POD"][7] == "0.0688"
    ours = rows["podx: POD"]
    hits = [record.find(Task.SEQUENTIAL, CONSTRAINED).metrics["hr_10"] for record in study.models]  # type: ignore[union-attr]
    assert ours[2:4] == ("2", str(USERS))
    assert ours[7] == f"{np.mean(hits):.4f} ± {np.std(hits, ddof=1):.4f}"
    assert rows["max(history)+1"][2] == "–"


def _with_next_number_hits(data: DatasetRecord, hits: float) -> DatasetRecord:
    """The dataset as if max(history)+1 had so many hits."""
    rows = tuple(
        dataclasses.replace(one, metrics={**one.metrics, "hr_10": hits}) for one in data.rows["max(history)+1"]
    )
    return dataclasses.replace(data, rows={**data.rows, "max(history)+1": rows})


def test_a_warning_stands_beside_numbers_that_leak(measured: tuple[AccuracyResults, Path]) -> None:
    study = measured[0]
    (data,) = study.datasets
    leaky, closed = _with_next_number_hits(data, 1.0), _with_next_number_hits(data, 0.0)
    told = leaky.find("max(history)+1", Task.SEQUENTIAL)
    assert told is not None
    table = accuracy_table(dataclasses.replace(study, datasets=(leaky,)), Task.SEQUENTIAL)
    assert any(f"max(history)+1 reaches HR@10 {told.metrics['hr_10']:.4f}" in note for note in table.notes)
    assert {row[1] for row in table.rows} == {"paper (leaks)"}
    table = accuracy_table(dataclasses.replace(study, datasets=(closed,)), Task.SEQUENTIAL)
    assert not any("Warning" in note for note in table.notes)
    assert {row[1] for row in table.rows} == {"paper"}


def test_both_ways_of_decoding_are_compared_on_the_same_users(measured: tuple[AccuracyResults, Path]) -> None:
    table = decoding_table(measured[0], Task.SEQUENTIAL)
    assert [row[2:4] for row in table.rows] == [("catalog", "4"), ("free", "4")]
    place = table.header.index("invalid %")
    assert table.rows[0][place] == "0.00 ± 0.00"
    assert float(table.rows[1][place].split()[0]) > 0  # a model of one epoch seldom writes an item


def test_templates_kept_at_inference_have_a_table_of_their_own(measured: tuple[AccuracyResults, Path]) -> None:
    study = measured[0]
    assert template_table(study, Task.SEQUENTIAL) is None
    first, second = study.models
    wording = "{user} went on with {history}"
    kept = dataclasses.replace(second, label="POD, discrete", templates={"sequential": wording})
    table = template_table(dataclasses.replace(study, models=(first, kept)), Task.SEQUENTIAL)
    assert table is not None
    assert [(row[0], row[2]) for row in table.rows] == [
        ("POD, Sports, reported", "kept"),
        ("POD, Sports, reported", "dropped"),
        ("podx: POD", "dropped"),
        ("podx: POD, discrete", "kept"),
    ]
    assert [row[-1] for row in table.rows[:2]] == ["24m6s", "22m17s"]
    assert f"Kept: {wording}" in table.notes


def test_schemes_come_in_a_fixed_order(measured: tuple[AccuracyResults, Path]) -> None:
    (data,) = measured[0].datasets
    schemes = ("semantic", "own", "shuffled", "paper")
    datasets = tuple(dataclasses.replace(data, scheme=scheme, digest=scheme) for scheme in schemes)
    study = dataclasses.replace(measured[0], datasets=datasets, models=())
    order = dict.fromkeys(row.dataset.scheme for row in methods(study, Task.SEQUENTIAL, CONSTRAINED))
    assert list(order) == ["paper", "shuffled", "semantic", "own"]


def test_the_report_is_drawn_from_its_file_alone(measured: tuple[AccuracyResults, Path], tmp_path: Path) -> None:
    study = measured[0]
    page = write_accuracy(study, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    charts = {f"hr10-{task}.svg" for task in ("sequential", "topn")}
    assert names == {"report.html", "report.md", *charts}
    text = page.read_text()
    assert text.count("<svg") == 2
    assert all(f"<h2>{table.title}</h2>" in unescape(text) for table in all_tables(study))


# --- command line and errors ---


def test_other_data_than_the_models_is_refused(folder: Path, tmp_path: Path) -> None:
    world(prefix="other").save(tmp_path / "ids")
    with pytest.raises(ConfigError, match="POD: the bundle's items differ from the dataset's"):
        run_accuracy([ModelInput("POD", folder / "bundle0", tmp_path / "ids")], [], tmp_path / "out", QUICK)
    world(step=3).save(tmp_path / "walks")
    with pytest.raises(ConfigError, match="the bundle's users have other items than the dataset's"):
        run_accuracy([ModelInput("POD", folder / "bundle0", tmp_path / "walks")], [], tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_copy_of_a_bundle_is_no_seed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").symlink_to(folder / "bundle0")
    for same in (tmp_path / "copy", folder / "bundle0"):
        models = [ModelInput("POD", path, folder / "data") for path in (folder / "bundle0", same)]
        with pytest.raises(ConfigError, match="a copy of a bundle given before, not another seed"):
            run_accuracy(models, [], tmp_path / "out", QUICK)


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to measure"):
        run_accuracy([], [], tmp_path, QUICK)


def test_the_report_alone_comes_from_an_earlier_run(measured: tuple[AccuracyResults, Path]) -> None:
    out = measured[1]
    done = CliRunner().invoke(app, ["accuracy", "--out", str(out), "--report-only"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "podx: POD" in done.output and done.output.strip().endswith(f"report: {out / 'report.html'}")
    with pytest.raises(ConfigError, match="--report-only takes everything"):
        CliRunner().invoke(app, ["accuracy", "A=b@c", "--out", str(out), "--report-only"], catch_exceptions=False)


def test_a_peer_alone_is_reported_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    peer = write_peer(tmp_path / "peer.json", list(range(1, USERS + 1)), [[1, 2, 3]] * USERS)
    arguments = ["accuracy", "--peer", f"{peer}@{folder / 'data'}", "--out", str(tmp_path / "out"), "--users", "9"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "SASRec" in done.output
    (record,) = ACCURACY_FILE.read(tmp_path / "out" / ACCURACY_FILE.name).peers
    assert record.measurements[0].users == 9


def test_what_is_no_sub_command_is_the_bundle_to_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["bundle", "--data", "d", "--out", "o"], ["--data", "d", "--out", "o", "BUNDLE"]):
        done = CliRunner().invoke(app, arguments)
        assert "holds no manifest.json" in str(done.exception)
    missing = CliRunner().invoke(app, [])
    assert missing.exit_code == 2 and "BUNDLE" in missing.output
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--speed-users" in shown and "accuracy" in shown
    assert "--unconstrained-users" in CliRunner().invoke(app, ["accuracy", "--help"]).output
