"""Batches built ahead are the batches that would have been built in place, and nothing is left running."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import podx_train.training.loop as loop_module
from podx_train.batches.batching import BatchBuilder
from podx_train.batches.prefetch import AHEAD, BatchFeed, batches_ahead
from podx_train.data.dataset import Dataset
from podx_train.options import TrainOptions
from podx_train.training.clock import Signal
from podx_train.training.loop import Trainer
from podx_train.training.train import train_model
from tests.train.conftest import Trained


def threads() -> list[str]:
    """Names of the threads that build batches now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("podx-batches")]


def number(position: int) -> int:
    """Stands for building: the batch is its position."""
    return position


# --- the feed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_batches_come_in_order_and_end(ahead: int) -> None:
    with BatchFeed(number, 3, 7, ahead) as feed:  # type: ignore[arg-type]
        assert [feed.take().built for _ in range(4)] == [3, 4, 5, 6]
        with pytest.raises(IndexError):
            feed.take()
    assert threads() == []


def test_no_more_than_asked_for_are_built_ahead() -> None:
    begun: list[int] = []
    third = threading.Event()

    def build(position: int) -> int:
        begun.append(position)
        if position == 2:
            third.set()
        return position

    with BatchFeed(build, 0, 100, 2) as feed:  # type: ignore[arg-type]
        assert begun == []
        feed.take()
        assert third.wait(timeout=30)  # the next two are built without being asked for
    assert begun == [0, 1, 2]


def test_building_happens_beside_the_taker() -> None:
    with BatchFeed(lambda _: threading.current_thread().name, 0, 2, 2) as feed:  # type: ignore[arg-type, return-value]
        assert str(feed.take().built).startswith("podx-batches")
    with BatchFeed(lambda _: threading.current_thread().name, 0, 2, 0) as feed:  # type: ignore[arg-type, return-value]
        assert feed.take().built == threading.current_thread().name


def test_waiting_is_what_the_taker_waited() -> None:
    with BatchFeed(number, 0, 3, 0) as feed:  # type: ignore[arg-type]
        ready = feed.take()
        assert ready.waiting_seconds == ready.building_seconds > 0
    built = threading.Event()

    def build(position: int) -> int:
        if position == 1:
            threading.Event().wait(0.05)
            built.set()
        return position

    with BatchFeed(build, 0, 2, 2) as feed:  # type: ignore[arg-type]
        feed.take()
        assert built.wait(timeout=30)
        ready = feed.take()
    assert ready.building_seconds >= 0.05 > ready.waiting_seconds


@pytest.mark.parametrize("ahead", [0, 2])
def test_errors_surface_at_their_batch_and_end_the_thread(ahead: int) -> None:
    def build(position: int) -> int:
        if position == 1:
            raise ValueError("batch 1 is broken")
        return position

    def take_all() -> None:
        with BatchFeed(build, 0, 5, ahead) as feed:  # type: ignore[arg-type]
            assert feed.take().built == 0
            feed.take()

    with pytest.raises(ValueError, match="batch 1 is broken"):
        take_all()
    assert threads() == []


def test_only_devices_of_their_own_are_fed_ahead() -> None:
    assert batches_ahead(torch.device("cpu")) == 0
    assert batches_ahead(torch.device("cuda")) == AHEAD == 2


# --- in training --------------------------------------------------------------------------------------------------


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build ahead although the device is the CPU."""
    monkeypatch.setattr(loop_module, "batches_ahead", lambda device: AHEAD)


def test_training_is_the_same_to_the_bit(
    world: Dataset, quick: TrainOptions, trained: Trained, tmp_path: Path, ahead: None
) -> None:
    result = train_model(world, tmp_path / "ahead", quick)
    plain, fed = trained.tensors(), load_file(tmp_path / "ahead" / "trainer.safetensors")
    assert plain.keys() == fed.keys()
    assert all(torch.equal(tensor, fed[name]) for name, tensor in plain.items())
    for entry in result.curve:
        assert 0 <= entry["building_share"] < 1
        assert entry["building_seconds"] > 0
    assert threads() == []


def test_out_of_time_and_resumed(
    world: Dataset, quick: TrainOptions, trained: Trained, tmp_path: Path, ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = iter([Signal.GO_ON] * 4 + [Signal.STOP])
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_signal", lambda self: next(signals))
        assert train_model(world, tmp_path / "parts", quick).out_of_time
    assert threads() == []
    train_model(world, tmp_path / "parts", quick, resume=True)
    parts = load_file(tmp_path / "parts" / "trainer.safetensors")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in trained.tensors().items())


def test_an_error_while_building_ends_the_training(
    world: Dataset, quick: TrainOptions, tmp_path: Path, ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, calls = BatchBuilder.draw, iter(range(1000))

    def breaking(self: BatchBuilder, *arguments: object, **named: object) -> object:
        if next(calls) == 5:
            raise ValueError("no such record")
        return build(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchBuilder, "draw", breaking)
    with pytest.raises(ValueError, match="no such record"):
        train_model(world, tmp_path / "out", dataclasses.replace(quick, epochs=1))
    assert threads() == []
