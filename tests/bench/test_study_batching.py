"""``podx study batching``: real training steps, and the search and the report over steps that are faked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from podx.errors import ConfigError
from podx_bench.harness.child import EngineError
from podx_bench.study import batching as study_batching
from podx_bench.study.batching import run_batching
from podx_bench.study.batching_report import batching_tables, reported_ratio, write_batching
from podx_bench.study.chart import PNG_FILE, SVG_FILE
from podx_bench.study.cli import app
from podx_bench.study.options import BatchingOptions
from podx_bench.study.record import STUDY_FILE
from podx_bench.study.report import HTML_FILE
from podx_bench.study.step import MEMORY, TIME, StepPlan, Steps, heaviest, measure_memory, measure_time, prepare
from podx_bench.study.strategies import ALTERNATED, MIXED, BatchingResults
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.bench.test_run import USERS, small_world

EXPLANATIONS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "data"
    small_world().save(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What podx train --epochs 0 leaves."""
    folder = tmp_path_factory.mktemp("study") / "base"
    train_model(small_world(), folder, TrainOptions(epochs=0, device="cpu"), Source(preset="tiny", pieces=120))
    return folder


def plan_of(do: str, batching: str, size: int, data: Path, base: Path, **more: Any) -> StepPlan:
    return StepPlan(do, str(data), str(base), None, batching, size, **more)


def steps_of(plan: StepPlan, scratch: Path) -> Steps:
    return Steps(*prepare(plan, scratch))


# --- real steps -----------------------------------------------------------------------------------------------------


def test_memory_is_measured_on_the_heaviest_batches(data: Path, base: Path, tmp_path: Path) -> None:
    steps = steps_of(plan_of(MEMORY, ALTERNATED, 8, data, base), tmp_path)
    built = [steps.build(place) for place in range(len(steps.planned))]
    places = heaviest(steps)
    assert max(one.batch.input_ids.numel() for one in built) == built[places[0]].batch.input_ids.numel()
    assert max(one.labels.numel() for one in built) in {built[place].labels.numel() for place in places}
    found = measure_memory(steps)
    assert found["peak_mb"] >= found["before_mb"] > 0
    assert found["longest_input"] == max(built[place].batch.input_ids.shape[1] for place in places)


def test_time_is_taken_over_the_updates_that_were_asked_for(data: Path, base: Path, tmp_path: Path) -> None:
    plan = plan_of(TIME, MIXED, 12, data, base, first=5, updates=2)
    found = measure_time(steps_of(plan, tmp_path), plan)
    records = 2 * USERS + EXPLANATIONS
    assert (found["updates"], found["records"]) == (2, records % 12 + 12)  # the last batch, then the first
    assert found["records_per_epoch"] == records and found["updates_per_epoch"] == 6
    assert found["seconds"] > 0 and 0 < found["pads"] < found["tokens"]


def test_alternated_batches_hold_fewer_pads(data: Path, base: Path, tmp_path: Path) -> None:
    shares = {}
    for name in (ALTERNATED, MIXED):
        plan = plan_of(TIME, name, 10, data, base)
        found = measure_time(steps_of(plan, tmp_path / name), plan)
        shares[name] = found["pads"] / found["tokens"]
        assert found["updates"] == found["updates_per_epoch"]
    assert found["records_per_epoch"] == 2 * USERS + EXPLANATIONS
    assert shares[ALTERNATED] < 0.5 * shares[MIXED]


def test_a_study_of_real_processes(data: Path, tmp_path: Path) -> None:
    command = [
        "batching", str(data), "--out", str(tmp_path), "--memory-gb", "100", "--closeness", "1e9", "--updates", "1",
        "--rounds", "1", "--threads", "1", "--", "--preset", "tiny", "--pieces", "120", "--tasks", "sequential",
    ]  # fmt: skip
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    results = BatchingResults.load(tmp_path / STUDY_FILE)
    assert [one.batch_size for one in results.strategies] == [8, 8]
    assert all(one.peak_mb and one.peak_mb > 50 for one in results.strategies)
    assert results.ratio() is not None and results.ratio("record_seconds") is not None
    for name in (PNG_FILE, SVG_FILE, HTML_FILE):
        assert (tmp_path / name).stat().st_size > 0


# --- faked steps ----------------------------------------------------------------------------------------------------


class Steady:
    """Stands in for the processes: mixed batches take twice the memory and the time of alternated ones."""

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []

    def __call__(self, plan: StepPlan, environment: Mapping[str, str]) -> dict[str, Any]:
        self.plans.append(plan)
        times = 2 if plan.batching == MIXED else 1
        if plan.do == MEMORY:
            return {"peak_mb": 400.0 + 10 * times * plan.batch_size, "before_mb": 400.0, "longest_input": 60}
        updates = plan.updates or 10
        return {
            "seconds": times * updates * (1 + 0.1 * len(self.plans)), "updates": updates,
            "records": updates * plan.batch_size, "pads": 10 * times, "tokens": 100, "updates_per_epoch": 10,
            "records_per_epoch": 10 * plan.batch_size, "peak_mb": 500.0,
        }  # fmt: skip


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Steady:
    found = Steady()
    monkeypatch.setattr(study_batching, "run_step", found)
    monkeypatch.setattr(study_batching, "run_logged", lambda *_: (0, "", 1.0))
    return found


def test_each_strategy_has_its_largest_batch_and_turns_alternate(steady: Steady, data: Path, tmp_path: Path) -> None:
    options = BatchingOptions(memory_gb=1.4, closeness=1e-9, rounds=3, updates=5)
    results = run_batching(data, tmp_path, options)
    assert (results.of(MIXED).batch_size, results.of(ALTERNATED).batch_size) == (50, 100)
    assert (results.of(MIXED).too_large, results.of(ALTERNATED).too_large) == (51, 101)
    timed = [plan for plan in steady.plans if plan.do == TIME]
    assert [plan.batching for plan in timed] == [MIXED, ALTERNATED, ALTERNATED, MIXED, MIXED, ALTERNATED]
    assert [plan.first for plan in timed] == [0, 0, 5, 5, 10, 10]
    assert results.of(MIXED).padding_share() == 0.2
    assert results.of(ALTERNATED).epoch_seconds()[0] == pytest.approx(10 * (1 + 0.1 * (len(steady.plans) - 4)))
    assert BatchingResults.load(tmp_path / STUDY_FILE) == results
    asked = len(steady.plans)
    again = run_batching(data, tmp_path, options)
    assert len(steady.plans) == asked and again.strategies == results.strategies


def test_the_report_stands_beside_the_paper(steady: Steady, data: Path, tmp_path: Path) -> None:
    results = run_batching(data, tmp_path, BatchingOptions(memory_gb=1.4, rounds=1, full_epoch=True), ("--lr", "1e-3"))
    assert [plan.updates for plan in steady.plans if plan.do == TIME] == [None, None]
    main, tried = batching_tables(results)
    assert [row[0] for row in main.rows] == [
        "sample-mixed (reported)", "task-alternated (reported)", "sample-mixed", "task-alternated",
    ]  # fmt: skip
    assert all(len(row) == len(main.header) for row in main.rows) and main.rows[0][8] == "1h14m"
    assert reported_ratio() == pytest.approx(74 / 19)
    assert any("a whole epoch" in note for note in main.notes) and any("--lr 1e-3" in note for note in main.notes)
    assert len(tried.rows) == sum(plan.do == MEMORY for plan in steady.plans)
    page = write_batching(results, tmp_path).read_text(encoding="utf-8")
    assert "minutes per epoch" in page and "3.9 times" in page


def test_a_budget_that_ends_is_told_and_the_next_call_goes_on(steady: Steady, data: Path, tmp_path: Path) -> None:
    results = run_batching(data, tmp_path, BatchingOptions(memory_gb=1.4, budget_minutes=1e-9))
    assert not steady.plans and results.ratio() is None
    assert [note.partition(":")[0] for note in results.notes] == [MIXED, ALTERNATED]
    page = write_batching(results, tmp_path).read_text(encoding="utf-8")
    assert "the budget ended before its largest batch was found" in page and not (tmp_path / PNG_FILE).exists()
    assert run_batching(data, tmp_path, BatchingOptions(memory_gb=1.4, rounds=1)).ratio() is not None


def test_a_budget_too_small_for_one_record_is_told(steady: Steady, data: Path, tmp_path: Path) -> None:
    results = run_batching(data, tmp_path, BatchingOptions(memory_gb=0.1))
    assert all("not even one record fits" in note for note in results.notes) and len(results.notes) == 2
    assert not [plan for plan in steady.plans if plan.do == TIME]


def test_the_wordings_of_a_file_are_used(steady: Steady, data: Path, tmp_path: Path) -> None:
    for extra in (("--templates", "words.json"), ("--templates=words.json",)):
        run_batching(data, tmp_path, BatchingOptions(memory_gb=0.1), extra)
    assert {plan.templates for plan in steady.plans} == {"words.json"}


def test_options_that_the_study_sets_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch-size, --epochs"):
        run_batching(data, tmp_path, BatchingOptions(memory_gb=1), ("--epochs", "3", "--batch-size", "8"))


def test_what_podx_train_refuses_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_batching, "run_logged", lambda *_: (2, "error: no such preset", 1.0))
    with pytest.raises(EngineError, match="no such preset"):
        run_batching(data, tmp_path, BatchingOptions(memory_gb=1))


def test_processes_that_die_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = StepPlan(MEMORY, "data", "base", None, MIXED, 8)
    for code, wanted in ((f"print({json.dumps(json.dumps({'peak_mb': 7.0}))})", {"peak_mb": 7.0}),
                         ("import os; os.kill(os.getpid(), 9)", {"peak_mb": None})):  # fmt: skip
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\nexec python3 -c '{code}'\n")
        script.chmod(0o755)
        monkeypatch.setattr("podx_bench.study.batching.sys.executable", str(script))
        assert study_batching.run_step(plan, {"PATH": "/usr/bin:/bin:/usr/local/bin"}) == wanted
    script.write_text("#!/bin/sh\necho out of luck >&2; exit 3\n")
    with pytest.raises(EngineError, match="out of luck"):
        study_batching.run_step(plan, {"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize(
    "wrong", [{"memory_gb": 0}, {"closeness": 0}, {"updates": 0}, {"rounds": 0}, {"device": "tpu"}, {"threads": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BatchingOptions(**{"memory_gb": 1.0, **wrong})
