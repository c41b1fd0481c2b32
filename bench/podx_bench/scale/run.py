"""Runs the scale bench: builds each catalog, loads each in a process of its own, times them turn by turn."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.harness.child import Child, Tell, run_in_child, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.scale.records import SCALE_FILE, ScaleOptions, ScaleRecord, ScaleResults
from podx_bench.scale.server import VOCABULARY_NEEDED, make_catalog, synthetic_items

TARGETS = {name: f"podx_bench.scale.server:{name}" for name in ("build", "Server")}
TIMEOUT_S = 24 * 3600.0
Figures = dict[str, float]


def run_scale(out: Path, options: ScaleOptions, checkpoint: Path | None, tell: Tell) -> ScaleResults:
    """Measure every size and write ``scale.json``.

    Args:
        out: folder for the results; the catalogs lie there too while the run lasts.
        checkpoint: a model whose recommender graph is timed over each catalog; None: nothing is timed but loading.
        tell: told what is being done.

    Raises:
        ConfigError: the checkpoint's vocabulary is too small. CheckpointError: it cannot be read.
        EngineError: a process died.
    """
    out.mkdir(parents=True, exist_ok=True)
    base: Path | None = None
    model: dict[str, Any] = {}
    figures: dict[int, Figures] = {}
    servers: dict[int, Child] = {}
    with tempfile.TemporaryDirectory(dir=out, prefix="catalogs-") as scratch, ExitStack() as processes:
        if checkpoint is not None:
            tell("export the graph")
            base = Path(scratch) / "base"
            model = _export(checkpoint, base, options)
        for items in sorted(options.items):
            place = Path(scratch) / f"items-{items}"
            process: dict[str, Any] = {
                "name": f"the catalog of {items:,} items",
                "advice": "leave that size out of --items, or make room",
                "environment": thread_environment(options.threads),
                "timeout": TIMEOUT_S,
            }
            tell(f"{items:,} items: build")
            figures[items] = run_in_child(TARGETS["build"], items, place, base, options, returns=Figures, **process)
            tell(f"{items:,} items: load")
            server = processes.enter_context(Child(TARGETS["Server"], place, base is not None, options, **process))
            figures[items] |= server.call("load", returns=Figures)
            servers[items] = server
        times = _rounds(servers, 0 if base is None else options.rounds, tell)
        for items, server in servers.items():
            figures[items] |= server.call("memory", returns=Figures)
    smallest = times[min(times)]
    records = tuple(_record(items, figures[items], times[items], smallest) for items in servers)
    results = ScaleResults(describe("cpu", options.threads), msgspec.to_builtins(options), model, records)
    SCALE_FILE.write(out, results)
    return results


def _export(checkpoint: Path, folder: Path, options: ScaleOptions) -> dict[str, Any]:
    """Write the bundle that the others are made from, over the smallest catalog; returns the shape of the model."""
    from podx_export.pipeline import write_bundle  # brings torch, which a run without a checkpoint does not need
    from podx_train.checkpoint.checkpoint import load_checkpoint

    source = load_checkpoint(checkpoint)
    vocabulary = source.model.backbone.config.vocab_size
    if vocabulary < VOCABULARY_NEEDED:
        raise ConfigError(
            f"the checkpoint's model knows {vocabulary:,} tokens, the synthetic items take {VOCABULARY_NEEDED:,}: "
            f"give one with T5's vocabulary, or leave --checkpoint out"
        )
    folder.mkdir()
    catalog = make_catalog(*synthetic_items(min(options.items), options.seed), source.tokenizer.eos_id)
    write_bundle(source, catalog, folder, options.precision)
    shape = Bundle.load(folder).manifest.shape
    return {**dataclasses.asdict(shape), "width": source.model.backbone.config.d_model}


def _rounds(servers: Mapping[int, Child], rounds: int, tell: Tell) -> dict[int, dict[str, list[float]]]:
    """Turns of all catalogs one after another, every second round in reverse order: figures of each round."""
    times: dict[int, dict[str, list[float]]] = {items: defaultdict(list) for items in servers}
    for turn in range(rounds):
        tell(f"time all catalogs, round {turn + 1} of {rounds}")
        for items in sorted(servers, reverse=bool(turn % 2)):
            taken: Figures = servers[items].call("time", returns=Figures)
            for name, ms in taken.items():
                times[items][name].append(ms)
    return times


def _record(
    items: int, figures: Figures, times: Mapping[str, list[float]], smallest: Mapping[str, list[float]]
) -> ScaleRecord:
    """The median of the rounds, and of how much longer each round took than the smallest catalog's."""
    typical = {name: median(ms) for name, ms in times.items()}
    ratios = {name.replace("_ms", "_ratio"): median(map(truediv, ms, smallest[name])) for name, ms in times.items()}
    return ScaleRecord(items=items, **figures, **typical, **ratios)
