"""``train_log.jsonl`` and ``loss.png``: the course of a training, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from podx_train.checkpoint.checkpoint import replace_file, write_text

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
