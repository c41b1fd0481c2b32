"""The course of a training: entries of its curve and of ``training.json``, log, plot and printed lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from podx.atomic import replace_file, write_text
from podx.text.templates import Task
from podx_train.model.pod_t5 import PodT5
from podx_train.options import TrainOptions
from podx_train.training.clock import SECONDS_PER_MINUTE
from podx_train.training.processes import Processes, environment
from podx_train.training.state import Totals, TrainState

LOG_FILE = "train_log.jsonl"
PLOT_FILE = "loss.png"
_PLOT_SIZE_INCHES = (7, 4)

Entry = Mapping[str, Any]


class Journal:
    """Finished epochs and, between them, how far training was now and then (``"partial": true``).

    Both files are written anew each time, so a resumed training never repeats a line. The epochs are the curve that
    the trainer saves; the lines between are kept here alone.

    Args:
        updates: from which training goes on; later lines of an earlier run are dropped, as their updates come again.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        self._folder = folder
        self._between = _read_between(folder / LOG_FILE, updates)

    def add(self, entry: Entry) -> None:
        """Remember a line that is no finished epoch; :meth:`write` puts it into the file."""
        self._between.append(entry)

    def write(self, curve: Sequence[Entry]) -> None:
        """Bring the log up to date."""
        lines = self._lines(curve)
        if lines:
            write_text(self._folder / LOG_FILE, "".join(json.dumps(line) + "\n" for line in lines))

    def plot(self, curve: Sequence[Entry]) -> None:
        """Draw validation loss by task, and training loss dashed, over updates; nothing before the first validation.

        Training loss is that of the lines between epochs where there are any: an epoch's own is a mean over all of it.
        """
        lines = self._lines(curve)
        validated = [line for line in lines if "validation_loss" in line]
        trained = [line for line in lines if "validation_loss" not in line] or validated
        if validated:
            _plot(self._folder / PLOT_FILE, {"validation": validated, "train": trained})

    def _lines(self, curve: Sequence[Entry]) -> list[Entry]:
        return sorted([*self._between, *curve], key=lambda line: int(line["updates"]))


def _read_between(path: Path, updates: int) -> list[Entry]:
    """The lines of a log that are no finished epochs; none where someone edited it beyond recognition."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["partial"] and line["updates"] <= updates]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _plot(path: Path, drawn: Mapping[str, Sequence[Entry]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_PLOT_SIZE_INCHES, layout="constrained")
    for (kind, lines), style in zip(drawn.items(), ("-", "--"), strict=True):
        losses = [(line["updates"], line[f"{kind}_loss"]) for line in lines]
        for name in sorted({name for _, loss in losses for name in loss}):
            points = [(updates, loss[name]) for updates, loss in losses if name in loss]
            axes.plot(*zip(*points, strict=True), style, marker=".", label=f"{name}, {kind}")
    axes.set(xlabel="updates", ylabel="mean negative log-likelihood per token")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    replace_file(path, lambda partial: figure.savefig(partial, format="png"))
    pyplot.close(figure)


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


def epoch_entry(
    state: TrainState,
    losses: Mapping[Task, float],
    seconds: float,
    partial: bool,
    ranking: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The epoch in progress with its validation ``losses``, which took so many ``seconds``.

    Its ``criterion``, which is to be low, is the mean loss; with a ``ranking``, NDCG@10 below zero.
    """
    totals = state.totals
    ranked = {} if ranking is None else {"validation_ranking": dict(ranking)}
    return {
        "epoch": state.epoch + 1,
        "partial": partial,
        "updates": state.updates,
        "train_loss": totals.means(),
        "validation_loss": {task.value: loss for task, loss in losses.items()},
        **ranked,
        "criterion": sum(losses.values()) / len(losses) if ranking is None else -ranking["ndcg_10"],
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


def _in_words(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items())


def epoch_line(entry: Mapping[str, Any]) -> str:
    """One epoch in words."""
    train, validation = _in_words(entry["train_loss"]), _in_words(entry["validation_loss"])
    part = " (stopped within it)" if entry["partial"] else ""
    judged = f"mean {entry['criterion']:.4f}"
    if ranking := entry.get("validation_ranking"):
        judged = (
            f"HR@10 {ranking['hr_10']:.4f}, NDCG@10 {ranking['ndcg_10']:.4f} "
            f"(popularity {ranking['popularity_hr_10']:.4f}, {ranking['popularity_ndcg_10']:.4f})"
        )
    return (
        f"epoch {entry['epoch']}{part}: train {train} | validation {validation}, {judged} | "
        f"{entry['train_seconds']:.1f} s + {entry['validation_seconds']:.1f} s validation, "
        f"padding {entry['padding_share']:.1%}, building batches {entry['building_share']:.1%} of the time"
    )


def expectation_line(entry: Mapping[str, Any], options: TrainOptions) -> str:
    """After the first epoch, how long training will take."""
    minutes = (entry["train_seconds"] + entry["validation_seconds"]) / SECONDS_PER_MINUTE
    longest = minutes * options.epochs
    if options.max_updates is not None:
        longest = min(longest, minutes * options.max_updates / max(1, entry["updates"]))
    if options.max_minutes is not None:
        longest = min(longest, options.max_minutes)
    soonest = min(longest, minutes * (1 + options.patience))
    return (
        f"about {minutes:.1f} minutes an epoch: {soonest:.0f} minutes in all if no epoch is better than this one "
        f"(--patience {options.patience}), {longest:.0f} at most; Ctrl-C keeps the best so far, --resume goes on"
    )


def progress_line(entry: Mapping[str, Any]) -> str:
    """How far an epoch is, in words."""
    train = _in_words(entry["train_loss"])
    left = entry["train_seconds"] / max(1, entry["batch"]) * (entry["batches"] - entry["batch"])
    return (
        f"epoch {entry['epoch']}, batch {entry['batch']} of {entry['batches']}: train {train} | "
        f"{entry['train_seconds'] / SECONDS_PER_MINUTE:.1f} min, "
        f"about {left / SECONDS_PER_MINUTE:.0f} min left in the epoch"
    )
