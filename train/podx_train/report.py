"""What training tells people: progress, a line per epoch, a log and a plot."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import podx
from podx_train.checkpoint import replace_file, write_text

LOG_FILE = "train_log.jsonl"
PLOT_FILE = "loss.png"
_PLOT_SIZE_INCHES = (7, 4)

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


def write_log(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """The whole log again, one line an epoch: a resumed training then never repeats a line."""
    write_text(folder / LOG_FILE, "".join(json.dumps(entry) + "\n" for entry in entries))


def plot_losses(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Validation loss by task, and training loss dashed, over epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_PLOT_SIZE_INCHES, layout="constrained")
    for kind, style in (("validation_loss", "-"), ("train_loss", "--")):
        for name in sorted({name for entry in entries for name in entry[kind]}):
            points = [(entry["epoch"], entry[kind][name]) for entry in entries if name in entry[kind]]
            axes.plot(*zip(*points, strict=True), style, marker=".", label=f"{name}, {kind.removesuffix('_loss')}")
    axes.set(xlabel="epoch", ylabel="mean negative log-likelihood per token")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    replace_file(folder / PLOT_FILE, lambda partial: figure.savefig(partial, format="png"))
    pyplot.close(figure)
