"""Figures that papers report, from ``published.csv``. They stand beside our own rows; none was measured here.

Tables 2 to 4 and 6 of POD (Prompt Distillation for Efficient LLM-based Recommendation, CIKM 2023), and figures of other
papers on Beauty without the leak of the paper's numbering, as later papers quote them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from podx.text.templates import Task

SPORTS, BEAUTY, TOYS = "Sports", "Beauty", "Toys"
COUNTS = {(35_598, 18_357): SPORTS, (22_363, 12_101): BEAUTY, (19_412, 11_924): TOYS}
"""The datasets by their users and items."""
POD = "POD"
NUMBERED = (POD, "P5")
"""Methods that read and write item numbers, and so profit from what the paper's numbering gives away."""
KEPT, DROPPED = "kept", "dropped"
"""The discrete template at inference, Table 6: continuous and discrete prompt, or the continuous one alone."""
LOGGED_HR_1 = {SPORTS: 0.0296, BEAUTY: 0.0235, TOYS: 0.0515}
"""POD's sequential HR@1, which Table 2 lacks, from its published logs."""
NUMBER = {Task.SEQUENTIAL: 2, Task.TOPN: 3, Task.EXPLANATION: 4}
"""The paper's number of each task's table."""
TABLES = {task: f"POD, Table {number}" for task, number in NUMBER.items()}


class Published(NamedTuple):
    """A row of a paper.

    Attributes:
        time: as printed; empty where the table has none.
        metrics, users, ms_per_user: as a :class:`podx_bench.harness.records.AccuracyRecord` has them.
    """

    source: str
    dataset: str
    task: Task
    method: str
    time: str
    metrics: Mapping[str, float]
    users: None = None

    @property
    def ms_per_user(self) -> str | None:
        """The time as printed, whatever it is of."""
        return self.time or None


def _published(row: dict[str, str]) -> Published:
    source, dataset, task, method, time = map(row.pop, ("source", "dataset", "task", "method", "time"))
    return Published(source, dataset, Task(task), method, time, {name: float(row[name]) for name in row if row[name]})


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    ROWS = tuple(map(_published, csv.DictReader(_file)))
TABLE_6 = tuple(row for row in ROWS if row.source == "POD, Table 6")
LEAK_FREE = tuple(row for row in ROWS if row.source == "leak-free")


def published_rows(dataset: str | None, task: Task) -> list[Published]:
    """The rows of Table 2, 3 or 4 on a dataset, in the paper's order."""
    return [row for row in ROWS if (row.source, row.dataset, row.task) == (TABLES[task], dataset, task)]
