"""Sweeps of ``podx study``: a real one end to end, and the bookkeeping of runs over trainings that are faked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from podx.errors import ConfigError, DataError
from podx_bench.harness.child import EngineError
from podx_bench.study import run as study_run
from podx_bench.study import train as study_train
from podx_bench.study.chart import PNG_FILE, SVG_FILE
from podx_bench.study.cli import app
from podx_bench.study.options import RunOptions
from podx_bench.study.record import MEASURED, STUDY_FILE, PointRecord, SweepResults
from podx_bench.study.report import HTML_FILE, sweep_tables, write_sweep
from podx_bench.study.run import gpu_names, run_sweep
from podx_bench.study.sweep import Point, heads_sweep, inference_sweep, k_sweep
from podx_bench.study.train import CUT, FAILED, FINISHED, WAITING, alone, outcome_of, run_training
from tests.bench.test_run import small_world

TINY = ("--preset", "tiny", "--pieces", "120", "--tasks", "sequential", "--epochs", "1", "--validation-users", "4")
OPTIONS = ("--users", "6", "--timed-users", "4", "--rounds", "1", "--batch-size", "4", "--threads", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "data"
    small_world().save(folder)
    return folder


# --- end to end -----------------------------------------------------------------------------------------------------


def test_a_study_trains_measures_and_draws_and_is_not_repeated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["k", str(data), "--out", str(tmp_path / "out"), "--values", "1,2", *OPTIONS, "--", *TINY]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "Figure 4" in first.output and HTML_FILE in first.output
    results = SweepResults.load(tmp_path / "out" / STUDY_FILE)
    assert [(point.label, point.state, point.users) for point in results.points] == [
        ("1", MEASURED, {"sequential": 6}),
        ("2", MEASURED, {"sequential": 6}),
    ]
    for point in results.points:
        assert point.ms_per_user["sequential"] > 0 and point.updates and point.minutes > 0
        assert 0 <= point.accuracy["sequential"]["ndcg_10"] <= point.accuracy["sequential"]["hr_10"] <= 1
    more, fewer = (point.parameters for point in results.points[::-1])
    assert more is not None and fewer is not None and more - fewer == 64  # a vector of the tiny preset
    for name in (PNG_FILE, SVG_FILE, HTML_FILE):
        assert (tmp_path / "out" / name).stat().st_size > 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}

    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is left to be run")

    monkeypatch.setattr(study_train, "run_logged", refuse)
    monkeypatch.setattr(study_run, "run_logged", refuse)
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0, second.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")} == before
    assert SweepResults.load(tmp_path / "out" / STUDY_FILE).points == results.points


def test_an_exhausted_budget_is_told_and_the_report_is_drawn(data: Path, tmp_path: Path) -> None:
    command = ["k", str(data), "--out", str(tmp_path), "--values", "1,2", "--budget-minutes", "1e-9", "--", *TINY]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert "the budget of 1e-09 minutes ended before its training" in found.output.replace("\n", " ")
    assert "not measured" in (tmp_path / HTML_FILE).read_text(encoding="utf-8")
    assert [point.state for point in SweepResults.load(tmp_path / STUDY_FILE).points] == [WAITING, WAITING]


# --- one training, faked --------------------------------------------------------------------------------------------


class Fake:
    """Stands in for the process: remembers commands, says what it is told to."""

    def __init__(self, status: int = 0, said: str = "", seconds: float = 30.0) -> None:
        self.status, self.said, self.seconds = status, said, seconds
        self.commands: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        beat: Callable[[float], None] = lambda _: None,
        descriptors: Sequence[int] = (),
    ) -> tuple[int, str, float]:
        self.commands.append(list(command))
        self.environments.append(environment)
        beat(self.seconds)
        return self.status, self.said, self.seconds

    def limit(self) -> float:
        """--max-minutes of the last command."""
        return float(self.commands[-1][self.commands[-1].index("--max-minutes") + 1])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    monkeypatch.setattr(study_train, "run_logged", found)
    return found


def train(folder: Path, minutes: float | None = None, left: float = float("inf")) -> study_train.Outcome:
    return run_training(folder, Path("data"), ("--prompts", "3"), minutes, left, {})


def test_a_finished_training_is_not_repeated(fake: Fake, tmp_path: Path) -> None:
    assert train(tmp_path / "run").state == FINISHED
    assert "--max-minutes" not in fake.commands[0] and "--resume" in fake.commands[0]
    assert train(tmp_path / "run") == study_train.Outcome(FINISHED, 30.0)
    assert len(fake.commands) == 1


def test_a_killed_training_goes_on_with_what_is_left_of_its_time(fake: Fake, tmp_path: Path) -> None:
    def killed(*given: Any) -> tuple[int, str, float]:
        Fake.__call__(fake, *given)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_train, "run_logged", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, minutes=2.0)
    assert fake.limit() == 2.0
    assert outcome_of(tmp_path) == study_train.Outcome(CUT, 30.0)
    assert train(tmp_path, minutes=2.0) == study_train.Outcome(FINISHED, 60.0)
    assert fake.limit() == 1.5


def test_a_budget_that_ends_within_a_training_leaves_it_open(fake: Fake, tmp_path: Path) -> None:
    fake.said = "epoch 3 is best (2 epochs finished; time was up, --resume goes on)"
    assert train(tmp_path, minutes=2.0, left=45.0).state == CUT
    assert fake.limit() == 0.75
    assert train(tmp_path, minutes=2.0, left=0.0).state == CUT and len(fake.commands) == 1
    assert train(tmp_path, minutes=2.0).state == FINISHED  # its own time was up
    assert fake.limit() == 1.5


def test_a_training_that_fails_is_told_and_begun_again(fake: Fake, tmp_path: Path) -> None:
    fake.status, fake.said = 2, "error: no such preset"
    assert train(tmp_path) == study_train.Outcome(FAILED, 30.0, "error: no such preset")
    fake.status = 0
    assert train(tmp_path).state == FINISHED


def test_a_training_that_still_runs_is_not_begun_twice(fake: Fake, tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ConfigError, match="a training still runs"):
        train(tmp_path)
    assert not fake.commands


def test_a_process_leaves_its_words_in_the_log(tmp_path: Path) -> None:
    beats: list[float] = []
    command = ["sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"]
    for _ in range(2):
        status, said, seconds = study_train.run_logged(command, tmp_path / "log", {}, beats.append)
        assert status == 3 and said.splitlines() == ["to stdout", "to stderr"] and seconds > 0
    assert len((tmp_path / "log").read_text(encoding="utf-8").splitlines()) == 4
    assert beats[-1] == seconds


# --- all trainings of a sweep, faked --------------------------------------------------------------------------------


def test_jobs_share_the_threads_of_a_cpu(fake: Fake, data: Path, tmp_path: Path) -> None:
    fake.status = 1
    with pytest.raises(EngineError, match="every training failed"):
        run_sweep(k_sweep((1, 2, 3)), data, tmp_path, RunOptions(jobs=2, threads=4), ("--seed", "7"))
    assert len(fake.commands) == 3
    assert {one["OMP_NUM_THREADS"] for one in fake.environments} == {"2"}
    assert all(command[-4:-2] == ["--seed", "7"] for command in fake.commands)
    assert sorted(command[-2:] for command in fake.commands) == [["--prompts", str(value)] for value in (1, 2, 3)]


def test_each_job_has_a_gpu_of_its_own(fake: Fake, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,7")
    assert gpu_names(2) == ["4", "6"]
    with pytest.raises(ConfigError, match="--jobs 4 needs as many GPUs, there are 3"):
        gpu_names(4)
    fake.status = 1
    with pytest.raises(EngineError):
        run_sweep(k_sweep((1, 2, 3)), data, tmp_path, RunOptions(jobs=2, device="cuda"))
    assert {one["CUDA_VISIBLE_DEVICES"] for one in fake.environments} <= {"4", "6"}
    assert all("cuda" in command for command in fake.commands)


def test_other_options_are_another_run(data: Path, tmp_path: Path, fake: Fake) -> None:
    fake.status = 1
    for options, extra in ((RunOptions(), ()), (RunOptions(minutes_per_run=1), ()), (RunOptions(), ("--seed", "1"))):
        with pytest.raises(EngineError):
            run_sweep(k_sweep((1,)), data, tmp_path, options, extra)
    assert len({command[command.index("--out") + 1] for command in fake.commands}) == 3


@pytest.mark.parametrize("extra", [("--out", "x"), ("--prompts=3",), ("--max-minutes", "3", "--resume")])
def test_options_that_the_study_sets_are_refused(extra: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=extra[0].partition("=")[0]):
        run_sweep(k_sweep((1,)), data, tmp_path, RunOptions(), extra)


def test_sweeps_name_the_options_of_podx_train() -> None:
    assert [point.train for point in k_sweep((1, 50)).points] == [("--prompts", "1"), ("--prompts", "50")]
    heads = heads_sweep((0, 4), without_prompts=True).points
    assert [point.label for point in heads] == ["0 (MLP)", "4", "4, no task prompts"]
    assert heads[0].train == ("--method", "peapod", "--user-heads", "0")
    assert heads[2].train == ("--method", "peapod", "--user-heads", "4", "--prompts", "0")
    assert inference_sweep().points == (Point("kept", export=("--inference", "discrete")), Point("dropped"))


@pytest.mark.parametrize(
    "wrong", [{"jobs": 0}, {"minutes_per_run": 0}, {"budget_minutes": -1}, {"device": "tpu"}, {"rounds": 0}]
)
def test_run_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RunOptions(**wrong)


# --- the report -----------------------------------------------------------------------------------------------------


def canned(name: str = "inference") -> SweepResults:
    """A sweep by hand: two points measured, the second twice as fast, and one that was not."""
    metrics = {"hr_1": 0.01, "hr_5": 0.02, "ndcg_5": 0.015, "hr_10": 0.05, "ndcg_10": 0.025}
    kept = PointRecord(
        "kept", (), ("--inference", "discrete"), MEASURED, 1.5, 100, 2, 1000,
        accuracy={"sequential": metrics}, users={"sequential": 6}, ms_per_user={"sequential": 8.0},
        round_ms={"sequential": (80.0, 90.0)}, template={"sequential": "what next for {user} after {history}"},
    )  # fmt: skip
    dropped = dataclasses.replace(
        kept, label="dropped", export=(), template={}, ms_per_user={"sequential": 4.0},
        round_ms={"sequential": (40.0, 45.0)},
    )  # fmt: skip
    return SweepResults(
        sweep={"name": name, "title": "A <title>", "axis": "discrete template", "note": "A note."},
        environment={
            "cpu": "Some CPU", "usable_cores": 2, "memory_gb": 16.0, "gpu": None, "device": "cpu", "threads": 2,
            "podx": "0.1.0", "podx_commit": None, "packages": {"numpy": "2.0"},
        },
        options={"rounds": 2, "batch_size": 32, "timed_users": 64, "device": "cpu"},
        extra=("--preset", "mini"),
        dataset={"name": "Beauty", "users": 3, "items": 4, "interactions": 5, "scheme": "train-first"},
        points=(kept, dropped, PointRecord("late", (), (), WAITING, 0.0)),
        notes=("late: no time",),
    )  # fmt: skip


def test_the_table_has_the_paper_beside_what_was_measured() -> None:
    training, sequential = sweep_tables(canned())
    assert [row[2] for row in training.rows] == [MEASURED, MEASURED, WAITING] and "late: no time" in training.notes
    assert [row[0] for row in sequential.rows] == ["kept (reported)", "dropped (reported)", "kept", "dropped"]
    assert sequential.rows[0][-2:] == ("24m6s", "–") and sequential.rows[0][2] == "–"
    assert [row[-2:] for row in sequential.rows[2:]] == [("8", "1.00×"), ("4", "2.00×")]
    assert all(len(row) == len(sequential.header) for row in sequential.rows)
    assert "kept: what next for {user} after {history}" in sequential.notes
    assert [row[0] for row in sweep_tables(canned("k"))[1].rows] == ["kept", "dropped"]


def test_the_page_is_the_same_each_time(tmp_path: Path) -> None:
    canned().save(tmp_path)
    assert SweepResults.load(tmp_path / STUDY_FILE) == canned()
    page = write_sweep(canned(), tmp_path).read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page and "sequential: accuracy" in page and "ms per user" in page and "late" in page
    assert write_sweep(canned(), tmp_path).read_text(encoding="utf-8") == page
    assert {path.name for path in tmp_path.iterdir()} == {STUDY_FILE, PNG_FILE, SVG_FILE, HTML_FILE}


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text('{"format": "podx-study", "format_version": 1}')
    with pytest.raises(DataError, match="is damaged"):
        SweepResults.load(tmp_path / STUDY_FILE)
