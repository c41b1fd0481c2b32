"""Runs the scale bench: builds each catalog, loads each in a process of its own, times them turn by turn."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.harness.child import Child, Tell, run_in_child, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.scale.catalogs import VOCABULARY_NEEDED, make_catalog, synthetic_items
from podx_bench.scale.records import ScaleOptions, ScaleRecord, ScaleResults

TARGETS = {name: f"podx_bench.scale.server:{name}" for name in ("build", "Server")}
TIMEOUT_S = 24 * 3600.0
Turns = list[list[float]]
"""Milliseconds of the calls of each round."""


def run_scale(out: Path, options: ScaleOptions, checkpoint: Path | None, tell: Tell) -> ScaleResults:
    """Measure every size and write ``scale.json``.

    Args:
        out: folder for the results; the catalogs lie there too while the run lasts.
        checkpoint: a model whose recommender graph is timed over each catalog; None: only the catalogs.
        tell: told what is being done.

    Raises:
        ConfigError: the checkpoint's vocabulary is too small. CheckpointError: it cannot be read.
        EngineError: a process died.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="catalogs-") as scratch, ExitStack() as processes:
        folder = Path(scratch)
        base: Path | None = None
        model: dict[str, Any] = {}
        if checkpoint is not None:
            tell("export the graph")
            base, model = _export(checkpoint, folder / "base", options)
        built: dict[int, dict[str, Any]] = {}
        servers: dict[int, Child] = {}
        for items in options.items:
            tell(f"{items:,} items: build")
            place, process = folder / f"items-{items}", _process(items, options)
            built[items] = run_in_child(
                TARGETS["build"], items, place, base, options, returns=dict[str, Any], **process
            )
            tell(f"{items:,} items: load")
            server = Child(TARGETS["Server"], place, base is not None, options, **process)
            servers[items] = processes.enter_context(server)
            built[items] |= servers[items].call("load", returns=dict[str, Any])
        times = _rounds(servers, options, base is not None, tell)
        smallest = times[min(times)]
        for items, server in servers.items():
            built[items] |= server.call("memory", returns=dict[str, Any])
        records = [_record(items, built[items], times[items], smallest) for items in sorted(servers)]
    results = ScaleResults(
        environment=describe("cpu", options.threads),
        options=msgspec.to_builtins(options),
        model=model,
        records=tuple(records),
    )
    results.save(out)
    return results


def _export(checkpoint: Path, folder: Path, options: ScaleOptions) -> tuple[Path, dict[str, Any]]:
    """The bundle that the others are made from: the checkpoint's model over the smallest catalog."""
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
    return folder, {**dataclasses.asdict(shape), "width": source.model.backbone.config.d_model}


def _process(items: int, options: ScaleOptions) -> dict[str, Any]:
    """What starting the processes of a catalog has in common."""
    return {
        "name": f"the catalog of {items:,} items",
        "advice": "leave that size out of --items, or make room",
        "environment": thread_environment(options.thread_count),
        "timeout": TIMEOUT_S,
    }


def _rounds(
    servers: Mapping[int, Child], options: ScaleOptions, has_graph: bool, tell: Tell
) -> dict[int, dict[str, Turns]]:
    """Turns of all catalogs one after another, every second round in reverse order."""
    times: dict[int, dict[str, Turns]] = {items: {} for items in servers}
    for command in ("search", "graph") if has_graph else ("search",):
        for turn in range(options.rounds):
            tell(f"time the {command}, round {turn + 1} of {options.rounds}")
            for items in sorted(servers, reverse=bool(turn % 2)):
                taken: dict[str, list[float]] = servers[items].call(command, returns=dict[str, list[float]])
                for name, ms in taken.items():
                    times[items].setdefault(name, []).append(ms)
    return times


def _record(
    items: int, measured: Mapping[str, Any], times: Mapping[str, Turns], smallest: Mapping[str, Turns]
) -> ScaleRecord:
    typical: dict[str, Any] = {name: median(ms for turn in turns for ms in turn) for name, turns in times.items()}
    ratios: dict[str, Any] = {
        name.replace("_ms", "_ratio"): _ratio(times[name], smallest[name]) for name in times if name != "encoder_ms"
    }
    return ScaleRecord(items=items, **measured, **typical, **ratios)


def _ratio(turns: Turns, others: Turns) -> float:
    """Median over the rounds of how much longer a round took than the other's same round."""
    return median(median(mine) / median(other) for mine, other in zip(turns, others, strict=True))
