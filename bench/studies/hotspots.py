"""Where the time of ``recommend.onnx`` goes: ``python bench/studies/hotspots.py BUNDLE --data DATA [--batch-size 32]``.

ONNX Runtime's own profiler, summed by operator and by part of the graph. It costs a few microseconds per operator, so
with small batches the shares of small operators look larger than they are.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from rich.console import Console

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.graphs.model import batch_feeds
from podx.recommender import DEFAULT_K
from podx.requests.encoder import RequestEncoder
from podx.text.templates import Task, parse_tasks
from podx_bench.engines.runtime import list_requests
from podx_bench.harness.options import usable_cores
from podx_bench.harness.terminal import run_command
from podx_bench.pages.render import rich_table
from podx_bench.pages.table import TextTable
from podx_bench.workload.inputs import require_match
from podx_bench.workload.scenarios import build_workload
from podx_train.data.dataset import Dataset

RUNS, WARM_UP_RUNS = 12, 3
SHOWN = 15
MICROSECONDS = 1e3
"""In a millisecond."""

_NODE, _KERNEL = "Node", "_kernel_time"
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class Hotspot:
    """Operators of one kind in one part of the graph. ``calls``, ``ms``: per run."""

    name: str
    calls: float
    ms: float


def feeds(bundle: Bundle, data: Path, task: Task, batch_size: int, seed: int) -> dict[str, Any]:
    """Inputs of ``recommend.onnx`` for the first test users of a task."""
    dataset = Dataset.load(data)
    require_match(bundle, dataset)
    work = build_workload(task, dataset, bundle, batch_size, seed).requests
    encoder = RequestEncoder(bundle, "keep-last")
    requests = list_requests(task, work)
    encoded = [encoder.encode(request) for request in requests]
    return dict(batch_feeds(encoder.batch(encoded, DEFAULT_K), encoder.reads_user_rows))


def profile(path: Path, inputs: Mapping[str, Any], threads: int) -> list[dict[str, Any]]:
    """Events of the profiler, those of the first runs left out."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = _ERRORS_ONLY
    with tempfile.TemporaryDirectory() as folder:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP_RUNS + RUNS):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == _NODE and event["name"].endswith(_KERNEL)]
    per_run = len(nodes) // (WARM_UP_RUNS + RUNS)
    return nodes[per_run * WARM_UP_RUNS :]


def hotspots(events: list[dict[str, Any]], runs: int = RUNS) -> tuple[list[Hotspot], list[Hotspot]]:
    """By operator, and by part of the graph and operator; both in falling order of time."""
    return _summed(((event["args"]["op_name"], event) for event in events), runs), _summed(
        ((f"{_part(event['name'])} {event['args']['op_name']}", event) for event in events), runs
    )


def _part(name: str) -> str:
    """Encoder, or a decoding step: its layers, or its search."""
    places = name.removesuffix(_KERNEL).strip("/").split("/")
    part = places[1] if len(places) > 1 else "graph"
    inside = len(places) > 2 and places[2].startswith("layers")
    return f"{part} layers" if inside else part


def _summed(named: Iterator[tuple[str, dict[str, Any]]], runs: int) -> list[Hotspot]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for name, event in named:
        times[name].append(event["dur"])
    spots = [Hotspot(name, len(us) / runs, float(np.sum(us)) / runs / MICROSECONDS) for name, us in times.items()]
    return sorted(spots, key=lambda spot: -spot.ms)


def hotspot_table(title: str, spots: list[Hotspot]) -> TextTable:
    """The largest of them, and what all took together."""
    total = sum(spot.ms for spot in spots)
    rows = [(s.name, f"{s.calls:.0f}", f"{s.ms:.2f}", f"{s.ms / total:.1%}") for s in spots[:SHOWN]]
    rows.append(("all", f"{sum(spot.calls for spot in spots):.0f}", f"{total:.2f}", "100.0%"))
    return TextTable(title, ("operator", "calls", "ms", "share"), tuple(rows))


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")],
    task: Annotated[str, typer.Option("--task", help="sequential or topn.")] = Task.SEQUENTIAL.value,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Users of a call.")] = 32,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0 = one per core.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which users are taken.")] = 0,
) -> None:
    """Where the time of recommend.onnx goes, by ONNX Runtime's profiler."""
    loaded = Bundle.load(bundle, verify=False)
    inputs = feeds(loaded, data, parse_tasks(task)[0], batch_size, seed)
    events = profile(loaded.file(sig.RECOMMEND_FILE), inputs, threads or usable_cores())
    console = Console()
    what = f"{loaded.manifest.precision}, batch {batch_size}, source {inputs[sig.INPUT_IDS].shape[1]}"
    for kind, spots in zip(("operator", "part of the graph"), hotspots(events), strict=True):
        console.print(rich_table(hotspot_table(f"recommend.onnx by {kind}: {what}", spots)))


if __name__ == "__main__":
    run_command(main)
