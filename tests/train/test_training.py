from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import podx_train.training.loop as loop_module
import podx_train.training.processes as processes_module
import podx_train.training.train as training_module
from podx.errors import ConfigError, DataError, DeviceError
from podx.text.templates import ALL_TASKS, Task
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.train.conftest import Trained


@pytest.mark.parametrize("batching", ["alternated", "mixed"])
def test_learns_a_ring(tmp_path: Path, batching: str) -> None:
    """Each item is followed by the next of a ring of twenty: a tiny model learns it in two hundred updates."""
    users, length, ring = 40, 7, 20
    items = ((np.arange(users)[:, None] + np.arange(length)) % ring + 1).astype(np.int32).ravel()
    offsets = np.arange(0, len(items) + 1, length, dtype=np.int32)
    dataset = Dataset(items, offsets, [f"u{n}" for n in range(users)], [f"i{n}" for n in range(ring)])
    options = TrainOptions(
        tasks=(Task.SEQUENTIAL,), epochs=8, batch_size=8, lr=3e-3, device="cpu", batching=batching, targets="all"
    )
    result = train_model(dataset, tmp_path / "out", options, Source(layers=(1, 1)))
    knowing_nothing = math.log(ring) / 2  # one item token and a certain end of sequence
    (name,) = result.curve[-1]["train_loss"]
    assert name == ("mixed" if batching == "mixed" else "sequential")
    assert result.curve[-1]["train_loss"][name] < 0.25 * knowing_nothing
    assert result.best_loss < 0.9 * knowing_nothing


def test_folder_and_log(trained: Trained) -> None:
    out, result = trained.folder, trained.result
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json",
        "explanation_tokens.json",
        "model.safetensors",
        "spiece.model",
        "dataset",
        "training.json",
        "trainer.safetensors",
        "train_log.jsonl",
        "loss.png",
    }
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line["train_loss"]) == set(line["validation_loss"]) == {"sequential", "topn", "explanation"}
        assert line["criterion"] == pytest.approx(sum(line["validation_loss"].values()) / 3)
        assert 0 < line["padding_share"] < 1
        assert 0 < line["building_share"] < 1
        assert line["train_seconds"] > 0
    assert lines[1]["criterion"] < lines[0]["criterion"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    training = load_checkpoint(out).training
    assert (training["best_epoch"], training["weights_epoch"], result.best_epoch) == (2, 2, 2)
    assert training["curve"] == lines == list(result.curve)
    assert training["options"]["batch_size"] == 16
    assert training["environment"]["processes"] == 1


def test_untrained_checkpoint(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(quick, epochs=0)
    result = train_model(world, tmp_path / "out", options, Source(preset="mini"))
    assert (result.epochs, result.best_loss) == (0, None)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.config.tasks == ALL_TASKS
    assert loaded.config.backbone["d_model"] == 128
    assert loaded.training["weights_epoch"] == 0


def test_max_minutes_by_the_clock(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(quick, epochs=10_000, patience=10_000, max_minutes=0.02)
    result = train_model(world, tmp_path / "out", options)
    assert result.out_of_time
    assert result.epochs < 10_000
    assert load_checkpoint(tmp_path / "out").training["updates"] > 0


def test_early_stopping(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    # a step this large makes validation worse from the first epoch on
    options = dataclasses.replace(quick, tasks=(Task.EXPLANATION,), epochs=50, lr=3.0, patience=2)
    result = train_model(world, tmp_path / "out", options)
    criteria = [entry["criterion"] for entry in result.curve]
    assert result.epochs < 50
    assert min(criteria[-2:]) >= min(criteria[:-2])
    assert result.best_loss == min(criteria)


def test_tasks_without_data(silent_world: Dataset, quick: TrainOptions, tmp_path: Path, capfd) -> None:
    options = dataclasses.replace(quick, epochs=0)
    train_model(silent_world, tmp_path / "out", options)
    assert load_checkpoint(tmp_path / "out").config.tasks == (Task.SEQUENTIAL, Task.TOPN)
    assert "no explanations in the dataset" in capfd.readouterr().err
    with pytest.raises(DataError, match="leave explanation out"):
        train_model(silent_world, tmp_path / "more", dataclasses.replace(options, tasks=(Task.EXPLANATION,)))
    assert not (tmp_path / "more").exists()


def test_folder_that_is_taken(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--resume"):
        train_model(world, tmp_path, quick)
    with pytest.raises(ConfigError, match="is a file"):
        train_model(world, tmp_path / "notes.txt", quick)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "sorted"}, "--batching"),
        ({"epochs": -1}, "--epochs must be at least 0"),
        ({"max_minutes": 0.0}, "--max-minutes must be above zero"),
        ({"lr": float("nan")}, "--lr must be above zero"),
        ({"validation_users": 0}, "--validation-users"),
        ({"weight_decay": -0.1}, "--weight-decay must be at least 0"),
    ],
)
def test_faulty_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_what_the_machine_lacks(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match="--device cuda"):
        train_model(world, tmp_path / "out", dataclasses.replace(quick, device="cuda"))
    monkeypatch.setattr(processes_module, "cpu_multiplies_bf16", lambda: False)
    with pytest.raises(DeviceError, match="bf16"):
        train_model(world, tmp_path / "out", dataclasses.replace(quick, precision="bf16"))


def test_validation_limit(world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = loop_module.pool_losses

    def recorded(*arguments: object) -> object:
        seen.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(loop_module, "pool_losses", recorded)
    options = dataclasses.replace(quick, epochs=1, validation_users=5)
    train_model(world, tmp_path / "out", options)
    assert seen == [5]


def test_device_or_precision_that_this_process_cannot_change_to(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("AcceleratorState has already been initialized")

    monkeypatch.setattr(processes_module, "Accelerator", refuse)
    with pytest.raises(ConfigError, match="train in a new process"):
        train_model(world, tmp_path / "out", quick)
    monkeypatch.setattr(processes_module, "Accelerator", lambda **_: SimpleNamespace(device=torch.device("meta")))
    with pytest.raises(ConfigError, match="it stays on meta"):
        train_model(world, tmp_path / "out", quick)
    assert not (tmp_path / "out").exists()


def test_held_out_pairs_among_the_training_explanations_are_told(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(training_module.console, "print", lambda text, **_: said.append(text))
    options = TrainOptions(epochs=0, device="cpu")
    train_model(world, tmp_path / "clean", options)
    assert not any("held-out" in line for line in said)
    leak = dataclasses.replace(world.explanations["train"][0], user=1, item=world.test_item(1))
    leaky = dataclasses.replace(world, explanations=world.explanations | {"train": [leak]})
    train_model(leaky, tmp_path / "leaky", options)
    assert any(line.startswith("note: 1 training explanations") for line in said)
