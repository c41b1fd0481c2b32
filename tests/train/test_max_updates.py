"""``--updates``: training and its schedule end at a number of optimiser steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from podx.errors import ConfigError
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import TrainOptions, method_options
from podx_train.training.processes import cpu_multiplies_bf16, uses_bf16
from podx_train.training.train import train_model
from tests.train.conftest import Trained


@pytest.fixture
def short(quick: TrainOptions) -> TrainOptions:
    """Two epochs and a bit of a third."""
    return dataclasses.replace(quick, epochs=50, max_updates=None)


@pytest.fixture
def epoch(trained_once: Trained) -> int:
    """Updates of an epoch."""
    return int(trained_once.result.curve[0]["updates"])


def test_training_ends_at_the_update(world: Dataset, short: TrainOptions, epoch: int, tmp_path: Path) -> None:
    limited = dataclasses.replace(short, max_updates=epoch + 2, schedule="cosine")
    result = train_model(world, tmp_path / "out", limited)
    assert [entry["updates"] for entry in result.curve] == [epoch, epoch + 2]


def test_a_resumed_training_ends_with_the_same_weights(
    world: Dataset, short: TrainOptions, epoch: int, tmp_path: Path
) -> None:
    longer = dataclasses.replace(short, max_updates=epoch + 3)
    train_model(world, tmp_path / "whole", longer)
    train_model(world, tmp_path / "parts", dataclasses.replace(short, max_updates=epoch))
    train_model(world, tmp_path / "parts", longer, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_schedule_that_ends_there_cannot_be_moved(world: Dataset, short: TrainOptions, tmp_path: Path) -> None:
    limited = dataclasses.replace(short, max_updates=8, schedule="cosine")
    train_model(world, tmp_path / "out", limited)
    with pytest.raises(ConfigError, match="--updates was 8"):
        train_model(world, tmp_path / "out", dataclasses.replace(limited, max_updates=9), resume=True)


def test_methods_set_their_options() -> None:
    assert TrainOptions(**method_options("p5")).prompts == 0
    assert TrainOptions(**method_options("peapod")).user_prompts == 3
    assert TrainOptions(**method_options("pod")) == TrainOptions()
    with pytest.raises(ConfigError, match="pod, p5, peapod"):
        method_options("p6")


def test_bf16_on_a_cpu_is_for_those_who_ask() -> None:
    device = torch.device("cpu")
    assert not uses_bf16("auto", device)
    assert not uses_bf16("fp32", device)
    if cpu_multiplies_bf16():
        assert uses_bf16("bf16", device)
