"""Entries of a training's curve and log, and the facts of ``training.json``, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podx.text.templates import Task
from podx_train.checkpoint.state import Totals, TrainState
from podx_train.model.pod_t5 import PodT5
from podx_train.training.options import TrainOptions
from podx_train.training.processes import Processes
from podx_train.training.report import environment


def progress_entry(state: TrainState, told: Totals, batches: int) -> dict[str, Any]:
    """How far an epoch of so many ``batches`` is; its losses are of the batches after ``told``."""
    return {
        "epoch": state.epoch + 1,
        "partial": True,
        "batch": state.batch,
        "batches": batches,
        "updates": state.updates,
        "train_loss": state.totals.means(told),
        "train_seconds": state.totals.seconds,
    }


def epoch_entry(state: TrainState, losses: Mapping[Task, float], seconds: float, partial: bool) -> dict[str, Any]:
    """The epoch in progress with its validation ``losses``, which took so many ``seconds``."""
    totals = state.totals
    return {
        "epoch": state.epoch + 1,
        "partial": partial,
        "updates": state.updates,
        "train_loss": totals.means(),
        "validation_loss": {task.value: loss for task, loss in losses.items()},
        "criterion": sum(losses.values()) / len(losses),
        "padding_share": totals.pads / max(1, totals.tokens),
        "train_seconds": totals.seconds,
        "building_share": totals.waiting_seconds / max(totals.seconds, 1e-9),
        "building_seconds": totals.building_seconds,
        "validation_seconds": seconds,
    }


def training_facts(
    state: TrainState, options: TrainOptions, source: Mapping[str, Any], model: PodT5, processes: Processes
) -> dict[str, Any]:
    """What ``training.json`` says of a training; ``source`` is what its weights started from."""
    return {
        "seed": options.seed,
        "best_epoch": state.best_epoch,
        "best_loss": state.best_loss if state.best_epoch else None,
        "updates": state.updates,
        "train_seconds": sum(entry["train_seconds"] for entry in state.curve) + state.totals.seconds,
        "curve": state.curve,
        "options": options.as_json(),
        "source": source,
        "parameters": model.parameter_counts(),
        "environment": environment(processes.device, processes.world) | {"bf16": processes.bf16},
    }
