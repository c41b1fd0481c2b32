"""Equal seeds, kills at any point, and going on: a training ends as if nothing had come between."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import podx_train.training.loop as loop_module
from podx.errors import CheckpointError, ConfigError
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.clock import Signal
from podx_train.training.journal import Journal
from podx_train.training.loop import Trainer
from podx_train.training.train import train_model
from tests.train.conftest import Trained


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


def test_equal_seeds_equal_weights(world: Dataset, quick: TrainOptions, trained_once: Trained, tmp_path: Path) -> None:
    options = dataclasses.replace(quick, epochs=1)
    for name, seed in (("b", 0), ("c", 1)):
        train_model(world, tmp_path / name, dataclasses.replace(options, seed=seed))
    first = trained_once.tensors()
    assert_equal_tensors(first, weights_of(tmp_path / "b"))
    prompts = "model.prompts"
    assert not torch.equal(first[prompts], weights_of(tmp_path / "c")[prompts])


@pytest.fixture(scope="module")
def trained_with_dropout(
    world: Dataset, quick: TrainOptions, dropout_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("dropout") / "whole"
    return Trained(folder, train_model(world, folder, quick, Source(backbone=str(dropout_backbone))))


@pytest.mark.parametrize(("method", "call"), [("update", 4), ("update", 14), ("_validate", 1), ("_save", 9)])
def test_resume_after_a_kill_gives_the_same_result(
    world: Dataset,
    quick: TrainOptions,
    dropout_backbone: Path,
    trained_with_dropout: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    call: int,
) -> None:
    source = Source(backbone=str(dropout_backbone))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, method, call)
        train_model(world, tmp_path / "killed", quick, source)
    resumed = train_model(world, tmp_path / "killed", quick, source, resume=True)
    assert resumed.epochs == 2
    for name in ("trainer.safetensors", "model.safetensors"):
        assert_equal_tensors(trained_with_dropout.tensors(name), weights_of(tmp_path / "killed", name))
    folders = (trained_with_dropout.folder, tmp_path / "killed")
    curves = [load_checkpoint(folder).training["curve"] for folder in folders]
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
        kill_at(patch, "update", 2, Signal.GO_ON)
        train_model(world, tmp_path / "killed", quick)
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        load_checkpoint(tmp_path / "killed")
    assert train_model(world, tmp_path / "killed", quick, resume=True).epochs == 1


@pytest.mark.parametrize(("target", "call"), [("publish", 0), ("save_trainer", 0), ("save_trainer", 1), ("write", 0)])
def test_kill_while_writing_leaves_what_loads_or_nothing(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int
) -> None:
    quick = dataclasses.replace(quick, epochs=1)
    owner = Journal if target == "write" else loop_module
    original, calls = getattr(owner, target), iter(range(100))

    def killed(*arguments: object, **named: object) -> None:
        if next(calls) == call:
            raise Killed
        original(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, target, killed)
        train_model(world, tmp_path / "out", quick)
    if target == "publish" or (target == "save_trainer" and call == 0):
        with pytest.raises(CheckpointError, match="no finished checkpoint"):
            load_checkpoint(tmp_path / "out")
    else:
        assert load_checkpoint(tmp_path / "out").training["weights_epoch"] == 1
    assert train_model(world, tmp_path / "out", quick, resume=True).epochs == 1
    assert [json.loads(line)["epoch"] for line in (tmp_path / "out" / "train_log.jsonl").open()] == [1]


def test_time_limit_within_an_epoch_and_resume(
    world: Dataset, quick: TrainOptions, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plots: None
) -> None:
    updates = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_signal", lambda self: Signal.STOP if next(updates) == 4 else Signal.GO_ON)
        stopped = train_model(world, tmp_path / "timed", quick)
    assert stopped.out_of_time
    assert stopped.epochs == 0
    assert stopped.best_epoch == 1  # the part of an epoch was validated and published
    (line,) = (tmp_path / "timed" / "train_log.jsonl").read_text().splitlines()
    assert json.loads(line)["partial"]
    assert json.loads(line)["validation_loss"]
    assert (tmp_path / "timed" / "loss.png").exists()
    assert load_checkpoint(tmp_path / "timed").training["weights_epoch"] == 1
    resumed = train_model(world, tmp_path / "timed", quick, resume=True)
    assert not resumed.out_of_time
    assert [entry["criterion"] for entry in resumed.curve] == [entry["criterion"] for entry in trained.result.curve]
    assert_equal_tensors(trained.tensors(), weights_of(tmp_path / "timed"))


def test_more_epochs_on_resume(
    world: Dataset, quick: TrainOptions, trained: Trained, trained_once: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained_once.folder, tmp_path / "parts")
    train_model(world, tmp_path / "parts", quick, resume=True)
    assert_equal_tensors(trained.tensors(), weights_of(tmp_path / "parts"))


def test_resume_refuses_changes(
    world: Dataset, silent_world: Dataset, quick: TrainOptions, trained_once: Trained, tmp_path: Path
) -> None:
    out = shutil.copytree(trained_once.folder, tmp_path / "out")
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


def test_start_after_a_kill_before_saving_takes_the_data_it_is_given(
    world: Dataset, silent_world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was learnt yet, so nothing of the first start may stay: neither its tokeniser nor its data."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "_save", 0)
        train_model(world, tmp_path / "out", quick, Source(pieces=150))
    other = dataclasses.replace(silent_world, user_ids=[f"other-{n}" for n in range(silent_world.user_count)])
    options = dataclasses.replace(quick, epochs=0)
    train_model(other, tmp_path / "out", options, Source(pieces=170), resume=True)
    loaded = load_checkpoint(tmp_path / "out")
    assert (loaded.tokenizer.vocab_size, loaded.user_ids[0]) == (170, "other-0")


def test_resume_refuses_another_tokenizer(
    world: Dataset, quick: TrainOptions, trained_once: Trained, tokenizer
) -> None:
    with pytest.raises(ConfigError, match="--tokenizer is not the one"):
        train_model(world, trained_once.folder, quick, Source(tokenizer=str(tokenizer.path)), resume=True)


def test_progress_lines_and_those_of_updates_that_come_again(
    world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    def log() -> list[dict[str, object]]:
        return [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").read_text().splitlines()]

    quick = dataclasses.replace(quick, epochs=1)
    signals = [Signal.GO_ON, Signal.GO_ON, Signal.TELL, Signal.SAVE, Signal.TELL]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "update", 5)
        heard = iter(signals)
        patch.setattr(Trainer, "_signal", lambda self: next(heard, Signal.GO_ON))
        train_model(world, tmp_path / "out", quick)
    assert [(line["batch"], line["updates"], line["partial"]) for line in log()] == [(2, 2, True), (4, 4, True)]
    assert all(line["train_loss"] for line in log())
    said = [line for line in capfd.readouterr().err.splitlines() if "batch" in line]
    assert [line.split(":")[0] for line in said] == ["epoch 1, batch 2 of 9", "epoch 1, batch 4 of 9"]
    result = train_model(world, tmp_path / "out", quick, resume=True)  # goes on from update 3
    assert [line["updates"] for line in log()] == [2, 9]
    assert log()[1] == result.curve[0]


def test_options_of_a_training_from_before_they_were_renamed() -> None:
    earlier = TrainOptions(embedding_lr=5.0).as_json()
    earlier["table_lr"] = earlier.pop("embedding_lr")
    TrainOptions(embedding_lr=5.0).refuse_changes(earlier)
    with pytest.raises(ConfigError, match=r"--embedding-lr was 5\.0, is None"):
        TrainOptions().refuse_changes(earlier)
