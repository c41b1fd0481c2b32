"""How often the answer is certain: the share of users whose k items are provably the model's best k of the catalogue.

``recommend.onnx`` says so for every answer (its output ``exact``). A wider search drops fewer prefixes, so it is
certain more often; what the width costs stands beside it. ``retry`` is the search that widens only for
those users who need it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import podx
from podx.bundle.bundle import Bundle
from podx.decoding.options import DEFAULT_BEAMS, MAX_RETRY_BEAMS, ItemSearchOptions
from podx.recommender import Recommender
from podx.requests.types import Recommendations
from podx.text.templates import Task
from podx_bench.engines.runtime import rank_requests, recommend_requests
from podx_bench.harness.environment import describe
from podx_bench.harness.options import DEFAULT_K, parse_numbers
from podx_bench.harness.record_file import RecordFile
from podx_bench.pages.render import rich_table
from podx_bench.pages.table import TextTable
from podx_bench.workload.matching import require_match
from podx_bench.workload.scenarios import build_workload
from podx_bench.workload.work import WorkItem
from podx_train.data.dataset import Dataset

CERTAINTY_FILE = "certainty.json"
_FILE = RecordFile(CERTAINTY_FILE, "podx-certainty", 1, "podx bench-certainty")
DEFAULT_WIDTHS = "10,20,50"
DEFAULT_USERS = 512
WARM_UP_REQUESTS = 32
MILLISECONDS = 1e3


@dataclass(frozen=True)
class CertaintyRecord:
    """One search.

    Attributes:
        search: ``20 beams`` or ``retry from 20 beams``.
        users: asked about. certain: share of them whose k items are proven. ms_per_user: mean.
        same_as_widest: share of users whose items are those of the widest search of the table.
    """

    task: str
    search: str
    users: int
    certain: float
    same_as_widest: float
    ms_per_user: float


def measure(
    recommender: Recommender, task: Task, requests: Sequence[WorkItem], widths: Sequence[int], k: int
) -> list[CertaintyRecord]:
    """A record per width, and one for the search that widens by itself, all on the same requests."""
    searches = {f"{width} beams": ItemSearchOptions(beams=width) for width in widths}
    searches[f"retry from {DEFAULT_BEAMS} beams"] = ItemSearchOptions(beams=DEFAULT_BEAMS, exact="retry")
    answers, seconds = {}, {}
    for name, search in searches.items():
        _ask(recommender, task, requests[:WARM_UP_REQUESTS], search, k)
        start = time.perf_counter()
        answers[name] = _ask(recommender, task, requests, search, k)
        seconds[name] = time.perf_counter() - start
    widest = [[one.item for one in found] for found in answers[f"{max(widths)} beams"]]
    return [
        CertaintyRecord(
            task=task.value,
            search=name,
            users=len(requests),
            certain=_share([found.exact is True for found in lists]),
            same_as_widest=_share(
                [[one.item for one in found] == other for found, other in zip(lists, widest, strict=True)]
            ),
            ms_per_user=seconds[name] * MILLISECONDS / len(requests),
        )
        for name, lists in answers.items()
    ]


def _ask(
    recommender: Recommender, task: Task, requests: Sequence[WorkItem], search: ItemSearchOptions, k: int
) -> list[Recommendations]:
    if task is Task.TOPN:
        return recommender.rank_batch(rank_requests(requests), k, search)
    return recommender.recommend_batch(recommend_requests(requests), k, search=search)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def certainty_table(records: Sequence[CertaintyRecord]) -> TextTable:
    """A row per task and search."""
    rows = tuple(
        (
            f"{record.task}, {record.search}",
            f"{record.users:,}",
            f"{record.certain:.1%}",
            f"{record.same_as_widest:.1%}",
            f"{record.ms_per_user:.2f}",
        )
        for record in records
    )
    notes = (
        "certain: the k items are proven to be the k of highest score in the whole catalogue, seen items left out. "
        f"retry: beams are doubled, up to {MAX_RETRY_BEAMS}, for the users who are not certain yet.",
    )
    return TextTable("Certainty", ("search", "users", "certain", "same as widest", "ms/user"), rows, notes)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")],
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {CERTAINTY_FILE}.")],
    widths: Annotated[str, typer.Option("--beams", help="Widths of the search.")] = DEFAULT_WIDTHS,
    users: Annotated[int, typer.Option("--users", min=1, help="Test users asked about.")] = DEFAULT_USERS,
    k: Annotated[int, typer.Option("-k", "--count", min=1, help="Answers per request.")] = DEFAULT_K,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0 = one per core.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which users are taken.")] = 0,
) -> None:
    """Measure how often answers are certain to be the model's best, against the width of the search."""
    console, dataset, loaded = Console(), Dataset.load(data), Bundle.load(bundle)
    require_match(loaded, dataset)
    recommender = podx.load(bundle, threads=threads, verify=False)
    records: list[CertaintyRecord] = []
    for task in loaded.manifest.tasks:
        if task is not Task.EXPLANATION:
            with console.status(f"certainty: {task}"):
                workload = build_workload(task, dataset, loaded, users, seed)
                records += measure(recommender, task, workload.requests, parse_numbers(widths, "--beams"), k)
    content = {
        "precision": loaded.manifest.precision,
        "options": {"users": users, "k": k, "seed": seed},
        "environment": describe("cpu", threads),
        "records": [dataclasses.asdict(record) for record in records],
    }
    _FILE.write(out, content)
    console.print(rich_table(certainty_table(records)))
    console.print(f"results: {out / CERTAINTY_FILE}", soft_wrap=True, markup=False)
