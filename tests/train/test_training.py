from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import podx_train.loop as loop_module
import podx_train.training as training_module
from podx.errors import CheckpointError, ConfigError, DataError, DeviceError
from podx.tasks import ALL_TASKS, Task
from podx_train.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.loop import Signal, Trainer
from podx_train.options import Source, TrainOptions
from podx_train.state import TrainState, dropout_seed, learning_rate
from podx_train.training import train_model


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def weights_of(folder: Path, name: str = "trainer.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def assert_equal_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def kill_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int, signal: Signal = Signal.SAVE) -> None:
    """Raise at the given call of a Trainer method; ``signal`` is what every update hears before it."""
    original, calls = getattr(Trainer, method), iter(range(10_000))

    def counted(self: Trainer, *arguments: object, **named: object) -> object:
        if next(calls) == call:
            raise Killed
        return original(self, *arguments, **named)

    monkeypatch.setattr(Trainer, method, counted)
    monkeypatch.setattr(Trainer, "_signal", lambda self: signal)


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
    result = train_model(dataset, tmp_path / "out", options)
    knowing_nothing = math.log(ring) / 2  # one item token and a certain end of sequence
    (name,) = result.curve[-1]["train_loss"]
    assert name == ("mixed" if batching == "mixed" else "sequential")
    assert result.curve[-1]["train_loss"][name] < 0.25 * knowing_nothing
    assert result.best_loss < 0.9 * knowing_nothing


def test_folder_and_log(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = train_model(world, out, quick)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json",
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


def test_equal_seeds_equal_weights(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(quick, epochs=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_model(world, tmp_path / name, dataclasses.replace(options, seed=seed))
    assert_equal_tensors(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    prompts = "model.prompts"
    assert not torch.equal(weights_of(tmp_path / "a")[prompts], weights_of(tmp_path / "c")[prompts])


@pytest.mark.parametrize(("method", "call"), [("_update", 4), ("_update", 14), ("_validate", 1), ("_save", 9)])
def test_resume_after_a_kill_gives_the_same_result(
    world: Dataset,
    quick: TrainOptions,
    dropout_backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    call: int,
) -> None:
    source = Source(backbone=str(dropout_backbone))
    train_model(world, tmp_path / "whole", quick, source)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, method, call)
        train_model(world, tmp_path / "killed", quick, source)
    resumed = train_model(world, tmp_path / "killed", quick, source, resume=True)
    assert resumed.epochs == 2
    for name in ("trainer.safetensors", "model.safetensors"):
        assert_equal_tensors(weights_of(tmp_path / "whole", name), weights_of(tmp_path / "killed", name))
    curves = [load_checkpoint(tmp_path / name).training["curve"] for name in ("whole", "killed")]
    for first, second in zip(*curves, strict=True):
        for key in ("epoch", "updates", "train_loss", "validation_loss", "criterion", "padding_share"):
            assert first[key] == second[key], key


def test_dropout_is_active_and_follows_the_seed_of_its_update(
    world: Dataset, quick: TrainOptions, dropout_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this the test above could pass on a model that draws nothing."""
    quick = dataclasses.replace(quick, epochs=1)
    source = Source(backbone=str(dropout_backbone))
    train_model(world, tmp_path / "a", quick, source)
    torch.rand(7)  # what was drawn elsewhere does not matter
    train_model(world, tmp_path / "b", quick, source)
    assert_equal_tensors(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    monkeypatch.setattr(loop_module, "dropout_seed", lambda *_: 1)
    train_model(world, tmp_path / "c", quick, source)
    prompts = "model.prompts"
    assert not torch.equal(weights_of(tmp_path / "a")[prompts], weights_of(tmp_path / "c")[prompts])


def test_resume_of_a_training_killed_before_it_saved_anything(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = dataclasses.replace(quick, epochs=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "_update", 2, Signal.GO_ON)
        train_model(world, tmp_path / "killed", quick)
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        load_checkpoint(tmp_path / "killed")
    assert train_model(world, tmp_path / "killed", quick, resume=True).epochs == 1


@pytest.mark.parametrize(
    ("target", "call"), [("publish", 0), ("save_trainer", 0), ("save_trainer", 1), ("write_log", 0)]
)
def test_kill_while_writing_leaves_what_loads_or_nothing(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int
) -> None:
    quick = dataclasses.replace(quick, epochs=1)
    original, calls = getattr(loop_module, target), iter(range(100))

    def killed(*arguments: object, **named: object) -> None:
        if next(calls) == call:
            raise Killed
        original(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop_module, target, killed)
        train_model(world, tmp_path / "out", quick)
    if target == "publish" or (target == "save_trainer" and call == 0):
        with pytest.raises(CheckpointError, match="no finished checkpoint"):
            load_checkpoint(tmp_path / "out")
    else:
        assert load_checkpoint(tmp_path / "out").training["weights_epoch"] == 1
    assert train_model(world, tmp_path / "out", quick, resume=True).epochs == 1


def test_time_limit_within_an_epoch_and_resume(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_model(world, tmp_path / "whole", quick)
    updates = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_signal", lambda self: Signal.STOP if next(updates) == 4 else Signal.GO_ON)
        stopped = train_model(world, tmp_path / "timed", quick)
    assert stopped.out_of_time
    assert stopped.epochs == 0
    assert stopped.best_epoch == 1  # the part of an epoch was validated and published
    assert load_checkpoint(tmp_path / "timed").training["weights_epoch"] == 1
    resumed = train_model(world, tmp_path / "timed", quick, resume=True)
    assert not resumed.out_of_time
    assert [entry["criterion"] for entry in resumed.curve] == [entry["criterion"] for entry in whole.curve]
    assert_equal_tensors(weights_of(tmp_path / "whole"), weights_of(tmp_path / "timed"))


def test_max_minutes_by_the_clock(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    options = dataclasses.replace(quick, epochs=10_000, patience=10_000, max_minutes=0.02)
    result = train_model(world, tmp_path / "out", options)
    assert result.out_of_time
    assert result.epochs < 10_000
    assert load_checkpoint(tmp_path / "out").training["updates"] > 0


def test_more_epochs_on_resume(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "whole", quick)
    train_model(world, tmp_path / "parts", dataclasses.replace(quick, epochs=1))
    train_model(world, tmp_path / "parts", quick, resume=True)
    assert_equal_tensors(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_early_stopping(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    # a step this large makes validation worse from the first epoch on
    options = dataclasses.replace(quick, tasks=(Task.EXPLANATION,), epochs=50, lr=3.0, patience=2)
    result = train_model(world, tmp_path / "out", options)
    criteria = [entry["criterion"] for entry in result.curve]
    assert result.epochs < 50
    assert min(criteria[-2:]) >= min(criteria[:-2])
    assert result.best_loss == min(criteria)


@pytest.mark.parametrize(("cumulative", "counts"), [(False, [0, 1, 0, 1, 2]), (True, [0, 1, 1, 2, 3])])
def test_patience_in_a_row_or_in_all(cumulative: bool, counts: list[int]) -> None:
    state = TrainState()
    seen = []
    for criterion in (5.0, 6.0, 4.0, 4.0, 4.5):
        state.judge(criterion, cumulative)
        seen.append(state.bad_epochs)
    assert seen == counts


def test_state_survives_json() -> None:
    state = TrainState(epoch=3, best_loss=0.1 + 0.2, curve=[{"epoch": 1}])
    assert TrainState.from_json(json.loads(json.dumps(state.as_json()))) == state
    with pytest.raises(CheckpointError, match="trainer state"):
        TrainState.from_json({"epoch": 1})


def test_dropout_seeds_differ() -> None:
    seeds = {dropout_seed(s, e, b, r) for s in range(3) for e in range(5) for b in range(20) for r in range(2)}
    assert len(seeds) == 600


def test_learning_rates() -> None:
    assert [learning_rate(1.0, u, 4, None) for u in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = [learning_rate(1.0, u, 0, 10) for u in range(11)]
    assert cosine[0] == 1.0
    assert cosine[5] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0.0, abs=1e-12)
    assert cosine == sorted(cosine, reverse=True)


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


def test_resume_refuses_changes(world: Dataset, silent_world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_model(world, out, dataclasses.replace(quick, epochs=1))
    with pytest.raises(ConfigError, match=r"--lr was 0\.0005, is 0\.1.*|--batch-size was 16, is 4"):
        train_model(world, out, dataclasses.replace(quick, lr=0.1, batch_size=4), resume=True)
    with pytest.raises(ConfigError, match="--preset or --backbone"):
        train_model(world, out, quick, Source(preset="mini"), resume=True)
    with pytest.raises(ConfigError, match="dataset"):
        train_model(silent_world, out, quick, resume=True)
    (out / "trainer.safetensors").write_bytes((out / "trainer.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        train_model(world, out, quick, resume=True)


def test_resume_of_a_checkpoint_without_trainer_state(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "out", dataclasses.replace(quick, epochs=0))
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    with pytest.raises(ConfigError, match="cannot be resumed"):
        train_model(world, tmp_path / "copy", quick, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "sorted"}, "--batching"),
        ({"epochs": -1}, "--epochs must be at least 0"),
        ({"max_minutes": 0.0}, "--max-minutes must be above zero"),
        ({"lr": float("nan")}, "--lr must be above zero"),
        ({"validation_users": 0}, "--validation-users"),
    ],
)
def test_faulty_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_that_is_not_there(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--device cuda"):
        train_model(world, tmp_path / "out", dataclasses.replace(quick, device="cuda"))
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
    assert training_module.train_model is train_model
