"""Figures that papers report, from ``published.csv``. They stand beside our own rows; none was measured here.

Tables 2, 3, 4, 5 and 6 of POD (Prompt Distillation for Efficient LLM-based Recommendation, CIKM 2023), and figures of
other papers on Beauty without the leak of the paper's numbering, as later papers quote them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podx.text.templates import Task

SPORTS, BEAUTY, TOYS = "Sports", "Beauty", "Toys"
COUNTS = {SPORTS: (35_598, 18_357), BEAUTY: (22_363, 12_101), TOYS: (19_412, 11_924)}
"""Users and items of the datasets, by which they are known again."""
POD, P5 = "POD", "P5"
NUMBERED = (POD, P5)
"""Methods that read and write item numbers, and so profit from what the paper's numbering gives away."""
KEPT, DROPPED = "kept", "dropped"
"""The discrete template at inference, Table 6: continuous and discrete prompt, or the continuous one alone."""
LOGGED_HR_1 = {SPORTS: 0.0296, BEAUTY: 0.0235, TOYS: 0.0515}
"""POD's sequential HR@1, which Table 2 lacks, from its published logs."""
TABLES = {Task.SEQUENTIAL: "POD, Table 2", Task.TOPN: "POD, Table 3", Task.EXPLANATION: "POD, Table 4"}
_NO_METRIC = ("source", "dataset", "task", "method", "time")


@dataclass(frozen=True)
class Published:
    """A row of a paper. ``metrics``: by the names of our own. ``time``: as printed, where the table has one."""

    source: str
    dataset: str
    task: Task
    method: str
    metrics: Mapping[str, float]
    time: str | None


@dataclass(frozen=True)
class Strategy:
    """A row of Table 5: a way to form batches, on Sports and one V100S, each at its largest batch size."""

    name: str
    time: str
    epochs: int
    time_per_epoch: str


def _published(row: Mapping[str, str]) -> Published:
    metrics = {name: float(value) for name, value in row.items() if value and name not in _NO_METRIC}
    return Published(row["source"], row["dataset"], Task(row["task"]), row["method"], metrics, row["time"] or None)


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    ROWS = tuple(_published(row) for row in csv.DictReader(_file))
TABLE_5 = (Strategy("sample-mixed", "15h59m", 13, "1h14m"), Strategy("task-alternated", "6h55m", 22, "19m"))
TABLE_6 = tuple(row for row in ROWS if row.source == "POD, Table 6")
LEAK_FREE = tuple(row for row in ROWS if row.source == "leak-free")


def known_dataset(users: int, items: int) -> str | None:
    """Name of a dataset of the paper by its counts; None: none of them."""
    return next((name for name, counts in COUNTS.items() if counts == (users, items)), None)


def published_rows(dataset: str, task: Task) -> list[Published]:
    """The rows of Table 2, 3 or 4 on a dataset, in the paper's order."""
    return [row for row in ROWS if (row.source, row.dataset, row.task) == (TABLES[task], dataset, task)]
