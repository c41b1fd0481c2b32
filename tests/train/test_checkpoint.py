from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import podx_train.checkpoint.checkpoint as checkpoint_module
from podx.atomic import replace_file, write_bytes, write_text
from podx.errors import CheckpointError
from podx.text.templates import Task
from podx_train.batches.batching import BatchBuilder
from podx_train.batches.samplers import evaluation_pool
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint, publish, save_dataset
from podx_train.data.dataset import Dataset
from podx_train.data.explanations import EXPLANATION_TOKENS
from podx_train.model.pod_t5 import PodT5
from podx_train.training.evaluate import pool_losses


@pytest.fixture
def folder(world: Dataset, tokenizer, make_model, tmp_path: Path) -> Path:
    out = tmp_path / "checkpoint"
    out.mkdir()
    write_bytes(out / "spiece.model", tokenizer.path.read_bytes())
    save_dataset(out, world)
    publish(out, make_model(), {"seed": 4}, epoch=3)
    return out


def test_round_trip(folder: Path, make_model, world: Dataset, encoder) -> None:
    loaded, model = load_checkpoint(folder), make_model()
    assert loaded.config == model.config
    for (name, a), (_, b) in zip(loaded.model.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not loaded.model.training
    assert (loaded.user_ids, loaded.item_ids) == (world.user_ids, world.item_ids)
    assert np.array_equal(loaded.sequences.items, world.items)
    assert loaded.sequences.of(3).tolist() == world.sequence(3).tolist()
    assert (loaded.training["seed"], loaded.training["weights_epoch"]) == (4, 3)
    record = (Task.SEQUENTIAL, 1, [2, 3])
    assert loaded.encoder().encode(*record).input_ids.tolist() == encoder.encode(*record).input_ids.tolist()
    assert len(loaded.catalog()) == world.item_count


def test_tokens_of_explanations_come_from_training_alone(folder: Path, world: Dataset, tokenizer) -> None:
    tokens = load_checkpoint(folder).explanation_tokens
    expected = {tokenizer.eos_id}
    for record in world.explanations["train"]:
        expected |= set(tokenizer.encode(record.explanation)[:EXPLANATION_TOKENS])
    assert tokens is not None and tokens.tolist() == sorted(expected)
    (folder / "explanation_tokens.json").unlink()
    assert load_checkpoint(folder).explanation_tokens is None  # as older versions wrote it


@pytest.mark.parametrize("content", ["", "[1, 2", '["a"]', "[2, 3]", "[3, 1]", "[1, 99999]", "[-1, 1]"])
def test_damaged_tokens_of_explanations_are_named(folder: Path, content: str) -> None:
    (folder / "explanation_tokens.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"explanation_tokens\.json .*: copy the checkpoint again"):
        load_checkpoint(folder)


def test_tied_weights_are_stored_once(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert "backbone.shared.weight" in names
    assert not [name for name in names if "embed_tokens" in name or "lm_head" in name]


def test_loading_leaves_the_generator_alone(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "spiece.model", "dataset/sequential.txt"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.json", "dataset/datamaps.json"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_truncated_files(folder: Path, name: str, kept: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_other_version_and_other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2"):
        load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(config | {"prompts": 9}))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(folder)


def test_no_folder_and_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_checkpoint(tmp_path)


def test_missing_training_facts_are_no_fault(folder: Path) -> None:
    (folder / "training.json").unlink()
    assert load_checkpoint(folder).training == {"weights_epoch": 3}


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        raise Killed

    with pytest.raises(Killed):
        replace_file(path, fail)
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="fcntl tells how a file is open")
def test_a_file_is_made_durable_through_a_handle_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that is open for reading alone."""
    import fcntl

    modes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    write_text(tmp_path / "file", "text")
    assert (modes, (tmp_path / "file").read_text()) == ([os.O_RDWR], "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("stop_at", range(3))
def test_kill_between_write_and_rename(
    folder: Path, make_model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_at: int
) -> None:
    """Publishing renames three files; after a kill before any of them, what loads is one model or the other, whole."""
    renames = iter(range(10))
    rename = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if next(renames) == stop_at:
            raise Killed
        return rename(self, target)

    newer = make_model(seed=9)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name in ("spiece.model", "dataset"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        copy(folder / name, fresh / name)
    monkeypatch.setattr(checkpoint_module.Path, "replace", interrupted)
    with pytest.raises(Killed):
        publish(fresh, newer, {}, epoch=4)
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        load_checkpoint(fresh)
    renames = iter(range(10))
    with pytest.raises(Killed):
        publish(folder, newer, {"seed": 5}, epoch=4)
    loaded = load_checkpoint(folder)
    expected: PodT5 = make_model() if stop_at == 0 else newer
    assert torch.equal(loaded.model.prompts, expected.prompts)
    assert loaded.training["weights_epoch"] == (3 if stop_at == 0 else 4)


def split_losses(checkpoint: Checkpoint, dataset: Dataset, split: str, limit: int | None = None) -> dict[Task, float]:
    """Mean loss of a checkpoint by task, on the tasks whose held-out records the dataset has."""
    config, encoder = checkpoint.config, checkpoint.encoder()
    shared = (dataset, checkpoint.catalog(), checkpoint.tokenizer, config.max_history, split)
    pools = [pool for task in config.tasks if (pool := evaluation_pool(task, *shared)).count]
    return pool_losses(checkpoint.model, BatchBuilder(config, encoder, pools), pools, batch_size=64, limit=limit)


def test_split_losses(folder: Path, world: Dataset) -> None:
    loaded = load_checkpoint(folder)
    losses = split_losses(loaded, world, "test")
    assert set(losses) == set(Task)
    assert all(0 < loss < 20 for loss in losses.values())
    assert split_losses(loaded, world, "validation") != losses
    silent = dataclasses.replace(world, explanations={"train": [], "val": [], "test": []})
    assert set(split_losses(loaded, silent, "test", limit=10)) == {Task.SEQUENTIAL, Task.TOPN}
