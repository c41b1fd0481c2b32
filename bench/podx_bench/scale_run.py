"""Runs the scale bench: builds each catalogue, loads each in a process of its own, times them turn by turn."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.harness.child import EngineError, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.harness.options import usable_cores
from podx_bench.scale import (
    LEVELS,
    VOCABULARY_NEEDED,
    ScaleOptions,
    ScaleRecord,
    ScaleResults,
    make_catalog,
    synthetic_items,
)

Tell = Callable[[str], None]
Turns = list[list[float]]
"""Milliseconds of the calls of each round."""


def run_scale(out: Path, options: ScaleOptions, checkpoint: Path | None, tell: Tell) -> ScaleResults:
    """Measure every size and write ``scale.json``.

    Args:
        out: folder for the results; the catalogues lie there too while the run lasts.
        checkpoint: a model whose recommender graph is timed over each catalogue; None: only the catalogues.
        tell: told what is being done.

    Raises:
        ConfigError: the checkpoint's vocabulary is too small. CheckpointError: it cannot be read.
        EngineError: a process died.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="catalogues-") as scratch, ExitStack() as processes:
        folder = Path(scratch)
        base, model = None, {}
        if checkpoint is not None:
            tell("export the graph")
            base, model = _export(checkpoint, folder / "base", options)
        built, servers = {}, {}
        for items in options.items:
            tell(f"{items:,} items: build")
            built[items] = _build(items, folder, base, options)
            tell(f"{items:,} items: load")
            server = _Server(_plan("serve", items, folder, base, options), options)
            servers[items] = processes.enter_context(server)
            built[items] |= server.ask("load")
        times = _rounds(servers, options, base is not None, tell)
        smallest = times[min(times)]
        for items, server in servers.items():
            built[items] |= server.ask("memory")
        records = [_record(items, built[items], times[items], smallest) for items in sorted(servers)]
    results = ScaleResults(
        environment=describe("cpu", options.threads),
        options=dataclasses.asdict(options),
        model=model,
        records=tuple(records),
    )
    results.save(out)
    return results


def _export(checkpoint: Path, folder: Path, options: ScaleOptions) -> tuple[Path, dict[str, Any]]:
    """The bundle that the others are made from: the checkpoint's model over the smallest catalogue."""
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


def _plan(do: str, items: int, folder: Path, base: Path | None, options: ScaleOptions) -> Path:
    plan = {
        "do": do,
        "items": items,
        "folder": str(folder / f"items-{items}"),
        "base": base and str(base),
        "options": dataclasses.asdict(options),
    }
    path = folder / f"{do}-{items}.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def _command(plan: Path) -> list[str]:
    return [sys.executable, "-m", "podx_bench.scale_worker", str(plan)]


def _environment(options: ScaleOptions) -> dict[str, str]:
    return thread_environment(options.threads or usable_cores(), spin=False)


def _build(items: int, folder: Path, base: Path | None, options: ScaleOptions) -> dict[str, Any]:
    plan = _plan("build", items, folder, base, options)
    ended = subprocess.run(_command(plan), stdout=subprocess.PIPE, text=True, env=_environment(options), check=False)
    if ended.returncode:
        raise _died("build", items, ended.returncode)
    built: dict[str, Any] = json.loads(ended.stdout)
    return built


def _died(what: str, items: int, status: int) -> EngineError:
    return EngineError(
        f"the process that was to {what} {items:,} items died with status {status} (-9: killed, often for want of "
        f"memory); what it said stands above: leave that size out of --items, or make room"
    )


class _Server:
    """A process that has a catalogue loaded. A context manager: leaving it ends the process."""

    def __init__(self, plan: Path, options: ScaleOptions) -> None:
        self._items = int(json.loads(plan.read_text(encoding="utf-8"))["items"])
        self._process = subprocess.Popen(
            _command(plan), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(options)
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for what it gives."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise EngineError("the process has no pipes")
        try:
            process.stdin.write(command + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise _died(command, self._items, process.wait())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes the pipes, which ends it
            pass


def _rounds(
    servers: Mapping[int, _Server], options: ScaleOptions, has_graph: bool, tell: Tell
) -> dict[int, dict[str, Turns]]:
    """Turns of all catalogues one after another, every second round in reverse order."""
    times: dict[int, dict[str, Turns]] = {items: {} for items in servers}
    for command in ("search", "graph") if has_graph else ("search",):
        for turn in range(options.rounds):
            tell(f"time the {command}, round {turn + 1} of {options.rounds}")
            for items in sorted(servers, reverse=bool(turn % 2)):
                for name, ms in servers[items].ask(command).items():
                    times[items].setdefault(name, []).append(ms)
    return times


def _record(
    items: int, measured: Mapping[str, Any], times: Mapping[str, Turns], smallest: Mapping[str, Turns]
) -> ScaleRecord:
    record = ScaleRecord(
        items=items, **measured, search_ms=_typical(times["ms"]), search_ratio=_ratio(times["ms"], smallest["ms"])
    )
    if "call_ms" not in times:
        return record
    steps, first = _steps(times), _steps(smallest)
    return dataclasses.replace(
        record,
        call_ms=_typical(times["call_ms"]),
        call_ratio=_ratio(times["call_ms"], smallest["call_ms"]),
        encoder_ms=_typical(times["encoder_ms"]),
        step_ms=_typical(steps),
        step_ratio=_ratio(steps, first),
    )


def _steps(times: Mapping[str, Turns]) -> Turns:
    """Of each round: what a call takes beyond the encoder, per decoding step."""
    pairs = zip(times["call_ms"], times["encoder_ms"], strict=True)
    return [[(median(call) - median(encoder)) / (LEVELS + 1)] for call, encoder in pairs]


def _typical(turns: Turns) -> float:
    return median(ms for turn in turns for ms in turn)


def _ratio(turns: Turns, others: Turns) -> float:
    """Median over the rounds of how much longer a round took than the other's same round."""
    return median(median(mine) / median(other) for mine, other in zip(turns, others, strict=True))
