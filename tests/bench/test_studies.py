"""The scripts of bench/studies: a sweep end to end, real training steps, the search for the largest batch."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from podx.errors import ConfigError, PodxError
from podx_bench.accuracy.datasets import dataset_digest
from podx_bench.accuracy.options import AccuracyOptions
from podx_bench.accuracy.records import ACCURACY_FILE
from podx_bench.harness.child import ChildDiedError, run_in_child
from podx_bench.harness.record_file import digest_of
from podx_bench.harness.records import CONSTRAINED
from podx_export.cli.export import export
from podx_train.cli.train import train
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.bench.world import USERS, Made, engines_here, small_world

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "studies"))
import batching
import oracle
import sweep

TINY = ("--preset", "tiny", "--pieces", "120", "--tasks", "sequential", "--epochs", "1", "--validation-users", "4")
EXPLANATIONS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "data"
    small_world().save(folder)
    return folder


# --- sweeps ---------------------------------------------------------------------------------------------------------


def in_process(*arguments: str) -> None:
    """``podx train`` and ``podx export`` without processes of their own."""
    import typer

    app = typer.Typer()
    app.command()({"train": train, "export": export}[arguments[0]])
    CliRunner().invoke(app, list(arguments[1:]), catch_exceptions=False)


def test_a_sweep_trains_measures_and_draws_and_is_not_repeated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_podx", in_process)
    out = tmp_path / "out"
    command = ["k", str(data), "--out", str(out), "--values", "1", "2", "--users", "6", "--timed-users", "4"]
    with engines_here():
        assert sweep.main([*command, "--threads", "1", "--", *TINY]) == 0
    results = ACCURACY_FILE.read(out / ACCURACY_FILE.name)
    assert [model.label for model in results.models] == ["K = 1", "K = 2"]
    for model in results.models:
        measured = model.find("sequential", CONSTRAINED)
        assert measured is not None and measured.users == 6
        assert 0 <= measured.metrics["ndcg_10"] <= measured.metrics["hr_10"] <= 1
        assert results.timings[0].ms_per_user[model.key] > 0 and model.training["updates"]
    fewer, more = (model.facts["parameters"] for model in results.models)
    assert more - fewer == 64  # a vector of the tiny preset
    assert {"report.html", "report.md", "hr10-sequential.svg"} <= {path.name for path in out.iterdir()}

    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is left to be run")

    monkeypatch.setattr(sweep, "_podx", refuse)
    assert sweep.main([*command, "--threads", "1", "--", *TINY]) == 0
    assert ACCURACY_FILE.read(out / ACCURACY_FILE.name).models == results.models


def test_sweeps_name_the_options_of_podx_train() -> None:
    assert [point.train for point in sweep.points("k", (1, 50))] == [("--prompts", "1"), ("--prompts", "50")]
    heads = sweep.points("heads", (0, 4))
    assert [point.label for point in heads] == ["0 heads (MLP)", "4 heads", "4 heads, no task prompts"]
    assert heads[0].train == ("--method", "peapod", "--user-heads", "0")
    assert heads[2].train == ("--method", "peapod", "--user-heads", "4", "--prompts", "0")
    kept, dropped = sweep.points("inference", ())
    assert kept.export == ("--inference", "discrete") and dropped.export == () and kept.train == dropped.train


def test_other_options_are_another_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []
    monkeypatch.setattr(sweep, "_podx", lambda *arguments: folders.append(arguments[3]))
    for extra in ((), ("--seed", "1")):
        sweep.bundle_of(sweep.Point("1", ("--prompts", "1")), data, tmp_path, extra)
    assert folders[0] != folders[2]


@pytest.mark.parametrize("extra", [("--out", "x"), ("--prompts=3",), ("--seed", "3", "--resume")])
def test_options_that_a_sweep_sets_are_refused(extra: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"conflicts with the study"):
        sweep.run("k", data, tmp_path, (1,), AccuracyOptions(), extra)


def test_a_training_that_fails_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PODX", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(PodxError, match="podx train ended with status 3"):
        sweep.bundle_of(sweep.Point("1"), data, tmp_path, ())


# --- batching: real steps -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What podx train --epochs 0 leaves."""
    folder = tmp_path_factory.mktemp("study") / "base"
    train_model(small_world(), folder, TrainOptions(epochs=0, device="cpu"), Source(preset="tiny", pieces=120))
    return folder


def test_memory_is_measured_on_the_heaviest_batches(data: Path, base: Path, tmp_path: Path) -> None:
    steps = batching.Steps(data, base, "alternated", 8, tmp_path)
    built = [steps.build(place) for place in range(len(steps.planned))]
    places = batching.heaviest(steps)
    assert max(one.batch.input_ids.numel() for one in built) == built[places[0]].batch.input_ids.numel()
    assert max(one.labels.numel() for one in built) in {built[place].labels.numel() for place in places}


def test_time_is_taken_over_the_updates_that_were_asked_for(data: Path, base: Path) -> None:
    found = batching.update_times(data, base, "mixed", 12, first=5, updates=2)
    records = 2 * USERS + EXPLANATIONS
    assert (found["updates"], found["records"]) == (2, records % 12 + 12)  # the last batch, then the first
    assert found["records_per_epoch"] == records and found["updates_per_epoch"] == 6
    assert found["seconds"] > 0 and 0 < found["pads"] < found["tokens"]


def test_alternated_batches_hold_fewer_pads(data: Path, base: Path) -> None:
    shares = {}
    for name, updates in (("alternated", 6), ("mixed", 6)):
        found = batching.update_times(data, base, name, 10, 0, updates)
        shares[name] = found["pads"] / found["tokens"]
    assert shares["alternated"] < 0.5 * shares["mixed"]


def test_a_study_from_end_to_end(data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[str] = []

    def first_in_a_child(target: str, *arguments: Any, **options: Any) -> Any:
        children.append(target)
        if len(children) == 1:
            return run_in_child(target, *arguments, **options)
        return getattr(batching, target.partition(":")[2])(*arguments)  # in this process: torch is long in coming

    monkeypatch.setattr(batching, "run_in_child", first_in_a_child)
    shutil.copytree(base, tmp_path / f"base-{digest_of([], 1, dataset_digest(data))}")
    sizes = ["--memory-gb", "100", "--closeness", "1e9", "--updates", "1", "--rounds", "1", "--threads", "1"]
    assert batching.main([str(data), "--out", str(tmp_path), *sizes]) == 0
    assert children == ["batching:peak_memory"] * 2 + ["batching:update_times"] * 2
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "sample-mixed (reported)" in report and "times as long for an epoch" in report
    assert {"study.json", "study.svg"} <= {path.name for path in tmp_path.iterdir()}


# --- batching: steps by a rule --------------------------------------------------------------------------------------


def rule(self: batching.Measured, function: str, *arguments: Any) -> Any:
    """Mixed batches take twice the memory and the time of alternated ones."""
    name, size, *rest = arguments[2:]
    times = 2 if name == "mixed" else 1
    if function == "peak_memory":
        return 400.0 + 10 * times * size
    return {
        "seconds": float(times * rest[1]), "updates": rest[1], "records": rest[1] * size, "pads": 10 * times,
        "tokens": 100, "updates_per_epoch": 10, "records_per_epoch": 10 * size,
    }  # fmt: skip


def asked(memory_gb: float) -> argparse.Namespace:
    return argparse.Namespace(memory_gb=memory_gb, closeness=1e-9, updates=5, rounds=2, threads=1)


def test_each_strategy_has_its_largest_batch_beside_the_paper(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching.Measured, "ask", rule)
    monkeypatch.setattr(batching.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=0, stdout=""))
    found = batching.study(data, tmp_path, asked(1.4), ("--lr", "1e-3"))
    sizes = {one["name"]: (one["batch_size"], one["too_large"]) for one in found["strategies"]}
    assert sizes == {"mixed": (50, 51), "alternated": (100, 101)}
    table = batching.table(found)
    assert [row[0] for row in table.rows] == [
        "sample-mixed (reported)", "task-alternated (reported)", "sample-mixed", "task-alternated",
    ]  # fmt: skip
    assert {len(row) for row in table.rows} == {len(table.header)} and table.rows[0][7] == "1h14m"
    assert batching.TABLE_5[1].time == "6h55m" and batching.TABLE_5[0].epochs == 13
    assert table.rows[2][6] == "20.0 %" and "2.00 times" in table.notes[1]
    with pytest.raises(PodxError, match="not even one record fits"):
        batching.study(data, tmp_path, asked(0.1), ())


def test_options_that_batching_sets_and_trainings_that_fail_are_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--epochs, --batch-size=8 after --"):
        batching.study(data, tmp_path, asked(1.0), ("--epochs", "3", "--batch-size=8"))
    monkeypatch.setattr(batching.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=2, stdout=""))
    with pytest.raises(PodxError, match="podx train refuses"):
        batching.study(data, tmp_path, asked(1.0), ())


def test_a_process_that_is_killed_ran_out_of_memory_and_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(status: int) -> Callable[..., Any]:
        def run(*_: Any, **__: Any) -> Any:
            raise ChildDiedError("out of luck", status)

        return run

    monkeypatch.setattr(batching, "run_in_child", dies(batching.KILLED))
    measured = batching.Measured(tmp_path / "measured.json", 1)
    assert measured.ask("peak_memory", tmp_path, tmp_path, "mixed", 8) is None
    monkeypatch.setattr(batching, "run_in_child", dies(3))
    again = batching.Measured(tmp_path / "measured.json", 1)
    assert again.ask("peak_memory", tmp_path, tmp_path, "mixed", 8) is None  # kept
    with pytest.raises(ChildDiedError, match="out of luck"):
        again.ask("peak_memory", tmp_path, tmp_path, "mixed", 9)


RULES: dict[str, Callable[[int], float | None]] = {
    "straight": lambda size: 400 + 7 * size,
    "curved": lambda size: 400 + 0.05 * size**2,
    "in steps": lambda size: 400 + 100 * (size // 16),
    "runs out": lambda size: None if size > 75 else 400.0,
    "flat and then a wall": lambda size: 5000.0 if size > 41 else 400.0,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("budget", [450, 1000, 3000])
def test_the_largest_batch_is_found(rule: Callable[[int], float | None], budget: float) -> None:
    largest, above, tried = batching.search_largest(rule, budget, most=100_000, closeness=1e-9)
    fits = [(peak := rule(size)) is not None and peak <= budget for size in (largest, above)]
    assert fits == [True, False] and above == largest + 1 and len(tried) < 30
    sizes, fitting = list(tried), 0
    for size in sizes:
        assert size <= max(batching.FIRST_SIZE, 2 * fitting) or fitting < size < above + fitting
        fitting = max([fitting, *(size for size in sizes[: sizes.index(size) + 1] if size <= largest)])


def test_the_search_ends_where_everything_or_nothing_fits() -> None:
    assert batching.search_largest(lambda _: 1.0, 10, most=5, closeness=0.05)[:2] == (5, 6)
    largest, above, tried = batching.search_largest(lambda _: 99.0, 10, most=1000, closeness=0.05)
    assert (largest, above, list(tried)) == (0, 1, [8, 4, 2, 1])
    largest, above, _ = batching.search_largest(lambda size: 400 + 25 * size, 2000, most=100_000, closeness=0.05)
    assert largest <= 64 < above and above - largest <= 0.05 * largest


# --- the oracle -----------------------------------------------------------------------------------------------------


def test_lists_are_compared_place_by_place_with_transformers(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "oracle.json"
    command = [str(made.bundle), "--checkpoint", str(made.checkpoint), "--data", str(made.data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["oracle.py", *command, "--users", "7"])
    oracle.main()
    (found,) = json.loads(out.read_text())["bundles"]
    assert (found["users"], found["equal_lists"], found["overlap"]) == (7, 7, 1.0)
    assert found["largest_score_difference"] < 1e-4


def test_a_swap_is_an_unequal_list_of_equal_sets() -> None:
    theirs = [[("a", -1.0), ("b", -1.5)], [("a", -1.0), ("c", -2.0)], [("a", -1.0), ("b", -1.5)]]
    ours = [[("b", -1.25), ("a", -1.25)], [("a", -1.0), ("b", -1.75)], [("a", -1.0), ("b", -1.5)]]
    found = oracle.compared(ours, theirs)
    assert (found["equal_lists"], found["equal_sets"], found["overlap"]) == (1, 2, 5 / 6)
    assert found["largest_gap_where_unequal"] == found["largest_score_difference"] == 0.25
