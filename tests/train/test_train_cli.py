from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from podx.errors import ConfigError, DataError
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.cli.train import train
from podx_train.data.dataset import Dataset

app = typer.Typer()
app.command()(train)


@pytest.fixture
def data(world: Dataset, tmp_path: Path) -> Path:
    world.save(tmp_path / "data")
    return tmp_path / "data"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_and_resume(data: Path, tokenizer, tmp_path: Path) -> None:
    templates = tmp_path / "templates.json"
    templates.write_text(json.dumps({"topn": ["choose from {candidates} for {user}"]}))
    out = tmp_path / "out"
    arguments = [data, "--out", out, "--tokenizer", tokenizer.path, "--tasks", "topn,sequential", "--prompts", 4]
    arguments += ["--batch-size", 16, "--device", "cpu", "--templates", templates, "--lr", 1e-3, "--seed", 3]
    result = run(*arguments, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "epoch 1 is best" in result.output
    loaded = load_checkpoint(out)
    assert loaded.config.tasks == ("sequential", "topn")
    assert (loaded.config.prompts, loaded.training["seed"]) == (4, 3)
    assert (out / "spiece.model").read_bytes() == tokenizer.path.read_bytes()
    result = run(*arguments, "--epochs", 2, "--resume")
    assert result.exit_code == 0, result.output
    assert len(load_checkpoint(out).training["curve"]) == 2


def test_untrained(data: Path, tmp_path: Path) -> None:
    result = run(data, "--out", tmp_path / "out", "--epochs", 0, "--tokenizer", "train", "--pieces", 150)
    assert result.exit_code == 0, result.output
    assert "untrained checkpoint" in result.output
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.tokenizer.vocab_size == 150 + len(checkpoint.item_ids)  # a token an item


@pytest.mark.parametrize(
    ("flags", "one_pass"),
    [
        ([], True),
        (["--tasks", "sequential"], True),
        (["--recipe", "paper"], False),
        (["--preset", "tiny"], False),
        (["--method", "pod"], False),
        (["--targets", "all"], False),
        (["--preset", "tiny", "--recipe", "fast"], True),
    ],
)
def test_the_recipe_is_fast_unless_something_of_the_paper_is_asked_for(
    flags: list[str], one_pass: bool, data: Path, tmp_path: Path
) -> None:
    result = run(data, "--out", tmp_path / "out", "--epochs", 0, "--pieces", 150, *flags)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config.one_pass is one_pass
    assert checkpoint.training["options"]["prompts"] == 3
    assert (checkpoint.config.max_history == 50) is one_pass


def test_the_recipe_for_codes_wants_codes(data: Path, world: Dataset, tmp_path: Path) -> None:
    arguments = ["--recipe", "large-catalog", "--epochs", 0, "--pieces", 150, "--out", tmp_path / "out"]
    error = run(data, *arguments).exception
    assert isinstance(error, ConfigError) and "podx data index" in str(error)
    assert not (tmp_path / "out").exists()
    codes = tuple((f"<a{n % 7}>", f"<b{n}>") for n in range(len(world.item_ids)))
    replace(world, item_codes=codes).save(tmp_path / "coded")
    assert run(tmp_path / "coded", *arguments).exit_code == 0


def test_errors_have_their_names(data: Path, tmp_path: Path) -> None:
    assert isinstance(run(data, "--out", tmp_path / "o", "--tasks", "cooking").exception, ConfigError)
    assert isinstance(run(tmp_path / "none", "--out", tmp_path / "o").exception, DataError)
    conflict = run(data, "--out", tmp_path / "o", "--preset", "tiny", "--backbone", "x").exception
    assert isinstance(conflict, ConfigError)
    assert "--preset and --backbone" in str(conflict)


def test_method_p5_sets_what_p5_is_and_yields_to_explicit_options(data: Path, tmp_path: Path) -> None:
    arguments = [data, "--method", "p5", "--epochs", 0, "--pieces", 150, "--device", "cpu"]
    assert run(*arguments, "--out", tmp_path / "p5").exit_code == 0
    assert run(*arguments, "--out", tmp_path / "own", "--inference", "bare", "--prompts", 2).exit_code == 0
    p5, own = (load_checkpoint(tmp_path / name) for name in ("p5", "own"))
    assert (p5.config.prompts, len(p5.config.inference_templates)) == (0, 3)
    assert (own.config.prompts, own.config.inference_templates) == (2, {})
    assert p5.training["options"]["batching"] == own.training["options"]["batching"] == "mixed"


def test_help_says_which_recipe_when() -> None:
    result = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, ["--help"])
    assert result.exit_code == 0
    recipes = result.output.partition("Which recipe when")[2].partition("Arguments")[0]
    for recipe in ("--method pod", "--method peapod", "--method p5", "--adapter lora", "--adapter prompt-only"):
        assert recipe in recipes
    assert "--targets all" in recipes and "podx data index" in recipes
    assert max(map(len, recipes.splitlines())) <= 100
    for panel in ("Recipe", "Model", "PeaPOD", "How long", "Optimiser", "Running"):
        assert f"─ {panel} ─" in result.output
