"""How often an answer is exact: the share of users whose k items are provably the model's best k of the catalog.

``recommend.onnx`` proves it for every answer it can (its output ``exact``, an optimality certificate). A wider search
drops fewer prefixes, so it proves more often; what the width costs stands beside it. ``retry`` is the search that
widens only for those users who need it. How often depends on the model: a small synthetic one is proven for nearly all
users with 10 beams, one of LastFM (3 codes an item, 3,646 items) for 0 % with 10, 18 % with 20 and 66 % with 50.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import eq
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

import podx
from podx.bundle.bundle import Bundle
from podx.decoding.options import AUTO, DEFAULT_BEAMS, MAX_RETRY_BEAMS, ItemSearchOptions
from podx.flags import option
from podx.recommender import Recommender
from podx.requests.types import Recommendations
from podx.text.templates import Task
from podx_bench.engines.runtime import batch_method, list_requests
from podx_bench.harness.child import Tell
from podx_bench.harness.environment import describe
from podx_bench.harness.options import DEFAULT_K, BaseOptions, parse_numbers
from podx_bench.harness.record_file import RecordFile
from podx_bench.harness.resources import timed
from podx_bench.pages.table import TextTable
from podx_bench.workload.inputs import require_match
from podx_bench.workload.scenarios import build_workload
from podx_bench.workload.work import WorkItem
from podx_train.data.dataset import Dataset

WARM_UP_REQUESTS = 32
ROUNDS = 5


@dataclass(frozen=True)
class ExactnessOptions(BaseOptions):
    """What is measured."""

    beams: tuple[int, ...] = option(
        (10, 20, 50), "Widths of the search.", parse=partial(parse_numbers, flag="--beams"), least=1
    )
    users: int = option(512, "Test users asked about.", least=1)
    k: int = option(DEFAULT_K, "Answers per request.", flag="-k,--count", least=1)


@dataclass(frozen=True)
class ExactnessRecord:
    """One search.

    Attributes:
        search: ``20 beams``, ``retry from 20 beams`` or ``auto``.
        users: asked about. exact: share of them whose k items are proven. ms_per_user: median of the rounds.
        same_as_widest: share of users whose items are those of the widest search of the table.
    """

    task: str
    search: str
    users: int
    exact: float
    same_as_widest: float
    ms_per_user: float


@dataclass(frozen=True)
class ExactnessResults:
    """A run."""

    precision: str
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: tuple[ExactnessRecord, ...]


EXACTNESS_FILE = RecordFile("exactness.json", "podx-exactness", 1, "podx bench exactness", ExactnessResults)


def run_exactness(bundle_path: Path, data: Path, out: Path, options: ExactnessOptions, tell: Tell) -> ExactnessResults:
    """Measure every ranking task of a bundle and write ``exactness.json`` into ``out``.

    Raises:
        ConfigError: bundle and dataset do not belong together. DataError, BundleError: one cannot be read.
    """
    dataset, bundle = Dataset.load(data), Bundle.load(bundle_path)
    require_match(bundle, dataset)
    recommender = podx.load(bundle_path, threads=options.threads, verify=False)
    records: list[ExactnessRecord] = []
    for task in bundle.manifest.answered:
        if task is not Task.EXPLANATION:
            tell(f"exactness: {task}")
            workload = build_workload(task, dataset, bundle, options.users, options.seed)
            records += measure(recommender, task, workload.requests, options.beams, options.k)
    environment = describe("cpu", options.threads)
    results = ExactnessResults(bundle.manifest.precision, msgspec.to_builtins(options), environment, tuple(records))
    EXACTNESS_FILE.write(out, results)
    return results


def measure(
    recommender: Recommender, task: Task, requests: Sequence[WorkItem], widths: Sequence[int], k: int
) -> list[ExactnessRecord]:
    """A record per width, and one for the search that widens by itself, all on the same requests."""
    ask, asked = batch_method(recommender, task), list_requests(task, requests)
    searches = {f"{width} beams": ItemSearchOptions(beams=width) for width in widths}
    searches[f"retry from {DEFAULT_BEAMS} beams"] = ItemSearchOptions(beams=DEFAULT_BEAMS, exact="retry")
    searches["auto"] = ItemSearchOptions(beams=AUTO)
    answers, times = {}, defaultdict(list)
    for search in searches.values():
        ask(asked[:WARM_UP_REQUESTS], k, search=search)
    for _ in range(ROUNDS):  # in turns, so that what else the machine does meets them all
        for name, search in searches.items():
            answers[name], ms = timed(partial(ask, asked, k, search=search))
            times[name].append(ms / len(requests))
    items = {name: [[one.item for one in answer] for answer in found] for name, found in answers.items()}
    records = [
        ExactnessRecord(task.value, name, len(requests), _share_exact(found), 0.0, median(times[name]))
        for name, found in answers.items()
    ]
    widest = items[f"{max(widths)} beams"]
    return [replace(record, same_as_widest=fmean(map(eq, items[record.search], widest))) for record in records]


def _share_exact(answers: Sequence[Recommendations]) -> float:
    return fmean(answer.exact is True for answer in answers)


def exactness_table(records: Sequence[ExactnessRecord]) -> TextTable:
    """A row per task and search."""
    rows = tuple(
        (f"{r.task}, {r.search}", f"{r.users:,}", f"{r.exact:.1%}", f"{r.same_as_widest:.1%}", f"{r.ms_per_user:.2f}")
        for r in records
    )
    notes = (
        "exact: the k items are proven to be the k of highest score in the whole catalog, seen items left out; how "
        "often depends on the model and its items. An answer without proof may be the best all the same. "
        f"retry: beams are doubled, up to {MAX_RETRY_BEAMS}, for the users whose answer is not proven yet. auto: "
        "every prefix that may still lead to a better answer is followed.",
    )
    return TextTable("Exactness", ("search", "users", "exact", "same as widest", "ms/user"), rows, notes)
