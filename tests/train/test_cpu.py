"""Tuning for a CPU changes speed, not results."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.training.cpu import tune_for_cpu


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
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    returned, kept = map(int, output.split())
    assert returned < 16 << 20 < 48 << 20 < kept
