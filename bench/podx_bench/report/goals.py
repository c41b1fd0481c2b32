"""The table of a README: ``python -m podx_bench.report.goals A/results.json B/results.json …`` prints it as Markdown.

Every figure is a ratio of two engines of one run, the median over its paired rounds; nothing is divided across runs.
A run with the engine ``podx`` and variants of it (``--variant int8=…``) gives a column's cell one ratio per precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from podx.errors import ConfigError
from podx_bench.engines import ENCODE_ONCE, OURS
from podx_bench.harness.command import run_command
from podx_bench.harness.records import Results
from podx_bench.latency.speed import paired_ratio
from podx_bench.pages.render import markdown_table
from podx_bench.pages.table import NONE, TextTable

CTRANSLATE2 = "ctranslate2"
IN_EVERY_PRECISION = (CTRANSLATE2,)
"""Peers that are compared with in the precision of ours, ``NAME-int8`` for int8; all others are what they are."""
DEFAULT_AGAINST = (ENCODE_ONCE, CTRANSLATE2)
TITLE = "How many times as fast"
FULL_PRECISION = "fp32"
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Cell:
    """One place where engines of one run were timed on the same requests.

    Attributes:
        name: task, length and batch size in words. run: label of the run.
        precisions: of each of our engines. rounds: time of each engine's rounds, in any unit.
    """

    name: str
    run: str
    precisions: Mapping[str, str]
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict)


def cells(results: Results) -> Iterator[Cell]:
    """The speed cells of a run by task and batch size, then what it streamed."""
    precisions = {OURS: results.model["precision"]}
    precisions |= {name: own["precision"] for name, own in results.variants.items()}
    for task in results.options["tasks"]:
        for size in sorted({r.batch_size for r in results.speed if r.task == task}):
            records = [r for r in results.speed if (r.task, r.batch_size) == (task, size)]
            name = ", ".join([task, *_source(results, records[0].source_tokens_mean), f"batch {size}"])
            yield Cell(name, results.label, precisions, {r.engine: r.round_ms for r in records})
        streamed = [r for r in results.stream if r.task == task]
        if streamed:
            first = streamed[0]
            name = f"{task}, stream of {first.users:,} users, batch {first.batch_size}"
            yield Cell(name, results.label, precisions, {r.engine: r.round_s for r in streamed})


def _source(results: Results, mean: float | None) -> list[str]:
    """The source length, where it is known."""
    fixed = results.options.get("source_length")
    if fixed is not None and mean == fixed:
        return [f"source {fixed}"]
    return [] if mean is None else [f"mean source {mean:.0f}"]


def ratio(cell: Cell, baseline: str, engine: str) -> float | None:
    """How many times as fast an engine is as another of the same cell; None: one of them was not timed there."""
    own = cell.rounds.get(engine)
    return None if own is None else paired_ratio(cell.rounds.get(baseline), own)


def rival(name: str, precision: str) -> str:
    """The engine that ours of a precision is compared with; a plain name is full precision."""
    return f"{name}-{precision}" if name in IN_EVERY_PRECISION and precision != FULL_PRECISION else name


def _ratios(cell: Cell, ours: Mapping[str, str], against: str) -> str:
    """One ratio for each of our engines (name → precision)."""
    found = [ratio(cell, rival(against, precision), engine) for engine, precision in ours.items()]
    if all(value is None for value in found):
        return NONE
    return " / ".join(NONE if value is None else f"{value:.1f}×" for value in found)


def _has_ratios(cell: Cell) -> bool:
    return len(cell.rounds) > 1 and any(engine in cell.rounds for engine in cell.precisions)


def has_ratios(results: Results) -> bool:
    """Whether a run timed podx beside another engine."""
    return any(_has_ratios(cell) for cell in cells(results))


def goals_table(runs: Sequence[Results], against: Sequence[str] = DEFAULT_AGAINST) -> TextTable:
    """A row per cell of all runs, sorted by its name; a column of ratios for each engine in ``against``.

    Raises:
        ConfigError: no run timed podx beside another engine.
    """
    found = [cell for run in runs for cell in cells(run) if _has_ratios(cell)]
    if not found:
        raise ConfigError(f"no run timed {OURS} beside another engine: give results of podx bench with both")
    found.sort(key=lambda cell: _natural(cell.name))
    repeated = len({cell.name for cell in found}) < len(found)
    rows = []
    for cell in found:
        ours = {engine: precision for engine, precision in cell.precisions.items() if engine in cell.rounds}
        rows.append(
            (
                f"{cell.name} ({cell.run})" if repeated else cell.name,
                " / ".join(ours.values()),
                *(_ratios(cell, ours, name) for name in against),
            )
        )
    columns = [f"against {name}" + (", as precise" if name in IN_EVERY_PRECISION else "") for name in against]
    header = ("podx on the same requests", "precision", *columns)
    return TextTable(TITLE, header, tuple(rows), (_NOTE,))


_NOTE = (
    "Medians over paired rounds of one run, every engine in a process of its own with the same number of threads. "
    f"{ENCODE_ONCE}: transformers generate in PyTorch, fp32."
)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts the numbers in a name as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(name)]


def main(
    results: Annotated[list[Path], typer.Argument(help="One or more results.json that podx bench wrote.")],
    against: Annotated[str, typer.Option("--against", help="Engines to compare with.")] = ",".join(DEFAULT_AGAINST),
) -> None:
    """Print how many times as fast podx is, by task, length, batch size and precision."""
    names = [name.strip() for name in against.split(",") if name.strip()]
    typer.echo(markdown_table(goals_table([Results.load(path) for path in results], names)), nl=False)


if __name__ == "__main__":
    run_command(main)
