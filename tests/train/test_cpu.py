"""Tuning for a CPU changes speed, not results."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import podx_train.cli.train
import podx_train.training.cpu
from podx.text.tokenizer import Tokenizer
from podx_train.cli.distill import distill
from podx_train.cli.train import train
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.model.student import StudentShape
from podx_train.options import Source, TrainOptions
from podx_train.training.cpu import tune_for_cpu
from podx_train.training.distill import DistillOptions, distill_model
from podx_train.training.train import train_model


def test_the_loss_stays(make_model: Callable[..., PodT5]) -> None:
    model = make_model()
    tokens = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    batch = ModelBatch(tokens, torch.zeros_like(tokens), mask, torch.tensor([0, 1, 2, 0]))
    labels = tokens[:, :3]
    before = model(batch, labels)
    tune_for_cpu(model.backbone)
    assert model.backbone.config._attn_implementation == "eager"
    torch.testing.assert_close(model(batch, labels), before, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """A freed block of 64 MiB stays with the process once it has been told to keep it."""
    program = """
from pathlib import Path
import torch
from podx_train.training.cpu import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def left_over():
    before = resident()
    block = torch.ones(16 << 20)
    del block
    return resident() - before

returned = left_over()
assert keep_freed_memory()
print(returned, left_over())
"""
    untuned = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    }  # make test sets them
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=untuned, capture_output=True, text=True, check=True).stdout
    returned, kept = map(int, output.split())
    assert returned < 16 << 20 < 48 << 20 < kept


def test_only_the_command_line_changes_the_allocator(
    world: Dataset, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(podx_train.training.cpu, "keep_freed_memory", lambda: calls.append("library"))
    monkeypatch.setattr(podx_train.cli.train, "keep_freed_memory", lambda: calls.append("command"))
    options, source = TrainOptions(epochs=0, device="cpu"), Source(tokenizer=str(tokenizer.path))
    train_model(world, tmp_path / "teacher", options, source)
    distill_model(tmp_path / "teacher", world, tmp_path / "student", DistillOptions(StudentShape(1)), options)
    assert calls == []
    world.save(tmp_path / "data")
    common = ["--data", tmp_path / "data", "--epochs", 0, "--device", "cpu"]
    for command, arguments in (
        (train, [tmp_path / "data", "--tokenizer", tokenizer.path, *common[2:], "--out", tmp_path / "a"]),
        (distill, [tmp_path / "teacher", "--decoder-layers", 1, *common, "--out", tmp_path / "b"]),
    ):
        app = typer.Typer()
        app.command()(command)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    assert calls == ["command", "command"]
