"""What training tells people on the terminal: progress, and a line per epoch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import podx
from podx_train.training.clock import SECONDS_PER_MINUTE

console = Console(stderr=True)


def progress_bar(visible: bool) -> Progress:
    """A bar of the epoch's batches; invisible on all processes but the first, and where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal))


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """What the figures were made with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "podx": podx.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def epoch_line(entry: Mapping[str, Any]) -> str:
    """One epoch in words."""
    train = ", ".join(f"{task} {loss:.3f}" for task, loss in entry["train_loss"].items())
    validation = ", ".join(f"{task} {loss:.3f}" for task, loss in entry["validation_loss"].items())
    part = " (stopped within it)" if entry["partial"] else ""
    return (
        f"epoch {entry['epoch']}{part}: train {train} | validation {validation}, mean {entry['criterion']:.4f} | "
        f"{entry['train_seconds']:.1f} s + {entry['validation_seconds']:.1f} s validation, "
        f"padding {entry['padding_share']:.1%}, building batches {entry['building_share']:.1%} of the time"
    )


def progress_line(entry: Mapping[str, Any]) -> str:
    """How far an epoch is, in words."""
    train = ", ".join(f"{task} {loss:.3f}" for task, loss in entry["train_loss"].items())
    left = entry["train_seconds"] / max(1, entry["batch"]) * (entry["batches"] - entry["batch"])
    return (
        f"epoch {entry['epoch']}, batch {entry['batch']} of {entry['batches']}: train {train} | "
        f"{entry['train_seconds'] / SECONDS_PER_MINUTE:.1f} min, "
        f"about {left / SECONDS_PER_MINUTE:.0f} min left in the epoch"
    )
