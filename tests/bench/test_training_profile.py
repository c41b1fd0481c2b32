"""The profile runs the steps that training runs, and its shares add up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from podx.text.templates import Task
from tests.bench.test_run import small_world

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "studies"))
import training_profile as module

PRESET = "tiny"


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(module.main)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_every_part_of_a_step_is_timed(tmp_path: Path) -> None:
    small_world().save(tmp_path / "data")
    out = tmp_path / "profile.json"
    options = ("--preset", PRESET, "--updates", "2", "--batch-size", "4", "--out", str(out), "--targets", "all")
    status, printed = run(str(tmp_path / "data"), *options)
    assert status == 0, printed
    assert all(part in printed for part in (*module.PARTS, "building in all"))
    content = json.loads(out.read_text())
    assert [entry["task"] for entry in content["tasks"]] == [Task.SEQUENTIAL, Task.TOPN]
    for entry in content["tasks"]:
        assert set(entry["seconds"]) == set(module.PARTS) and min(entry["seconds"].values()) > 0
        assert sum(entry["shares"].values()) == pytest.approx(1)
        assert entry["building_share"] == pytest.approx(sum(entry["shares"][part] for part in module.BUILDING))
        assert entry["updates"] == 2 and entry["tokens"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "huge"), "unknown --preset"),
        (("--tasks", "sing"), "unknown task"),
        (("--targets", "x"), "targets"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: tuple[str, str], message: str) -> None:
    small_world().save(tmp_path / "data")
    status, printed = run(str(tmp_path / "data"), *options)
    assert status == 2 and message in printed
