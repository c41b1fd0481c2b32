"""How many times as fast podx is: ratios of two engines of one run, medians over its paired rounds.

Nothing is divided across runs. A run with the engine ``podx`` and variants of it (``--variant int8=…``) gives a cell
one ratio per precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from podx.errors import ConfigError
from podx_bench.engines import ENCODE_ONCE, OURS
from podx_bench.harness.records import Results
from podx_bench.latency.speed import paired_ratio
from podx_bench.pages.about import INT8, precision_name
from podx_bench.pages.table import NONE, TextTable

CTRANSLATE2 = "ctranslate2"
IN_EVERY_PRECISION = (CTRANSLATE2,)
"""Peers that are compared with in the precision of ours, ``NAME-int8`` for int8; all others are what they are."""
DEFAULT_AGAINST = (ENCODE_ONCE, CTRANSLATE2)
TITLE = "How many times as fast"
FULL_PRECISION = "fp32"
_NUMBERS = re.compile(r"(\d+)")
_NOTE = (
    "Medians over paired rounds of one run, every engine in a process of its own with the same number of threads. "
    f"{ENCODE_ONCE}: transformers generate in PyTorch, fp32."
)


@dataclass(frozen=True)
class RatioCell:
    """One place where engines of one run were timed on the same requests.

    Attributes:
        name: task, length and batch size in words. run: label of the run.
        precisions: of each of our engines that was timed. rounds: time of each engine's rounds, in any unit.
    """

    name: str
    run: str
    precisions: Mapping[str, str]
    rounds: Mapping[str, Sequence[float]]

    def against(self, name: str) -> list[float | None]:
        """A ratio for each of our engines; ours of a precision is compared with the peer of that precision."""
        ratios = []
        for engine, precision in self.precisions.items():
            as_precise = name in IN_EVERY_PRECISION and precision != FULL_PRECISION
            rival = self.rounds.get(f"{name}-{precision}" if as_precise else name)
            ratios.append(paired_ratio(rival, self.rounds[engine]))
        return ratios


def ratio_cells(results: Results) -> Iterator[RatioCell]:
    """Where a run timed podx beside another engine: by task and batch size, then what it streamed."""
    models = {OURS: results.model, **results.variants}
    rounds: dict[str, dict[str, Sequence[float]]] = {}
    for task in results.options["tasks"]:
        for record in sorted((r for r in results.speed if r.task == task), key=attrgetter("batch_size")):
            name = ", ".join([task, *_source(results, record.source_tokens_mean), f"batch {record.batch_size}"])
            rounds.setdefault(name, {})[record.engine] = record.round_ms
        for streamed in (r for r in results.stream if r.task == task):
            name = f"{task}, stream of {streamed.users:,} users, batch {streamed.batch_size}"
            rounds.setdefault(name, {})[streamed.engine] = streamed.round_s
    for name, timed in rounds.items():
        precisions = {engine: model["precision"] for engine, model in models.items() if engine in timed}
        if precisions and len(timed) > 1:
            yield RatioCell(name, results.label, precisions, timed)


def _source(results: Results, mean: float | None) -> list[str]:
    """The source length, where it is known."""
    fixed = results.options.get("source_length")
    if fixed is not None and mean == fixed:
        return [f"source {fixed}"]
    return [] if mean is None else [f"mean source {mean:.0f}"]


def ratio_table(runs: Sequence[Results], against: Sequence[str] = DEFAULT_AGAINST) -> TextTable:
    """A row per cell of all runs, sorted by its name; a column of ratios for each engine in ``against``.

    Raises:
        ConfigError: no run timed podx beside another engine.
    """
    cells = sorted((cell for run in runs for cell in ratio_cells(run)), key=lambda cell: _natural(cell.name))
    if not cells:
        raise ConfigError(f"no run timed {OURS} beside another engine: give results of podx bench with both")
    repeated = len({cell.name for cell in cells}) < len(cells)
    rows = tuple(
        (
            f"{cell.name} ({cell.run})" if repeated else cell.name,
            " / ".join(cell.precisions.values()),
            *(_times(cell.against(name)) for name in against),
        )
        for cell in cells
    )
    columns = [f"against {name}" + (", as precise" if name in IN_EVERY_PRECISION else "") for name in against]
    return TextTable(TITLE, ("podx on the same requests", "precision", *columns), rows, (_NOTE, *_int8_notes(runs)))


def _times(ratios: Sequence[float | None]) -> str:
    if not any(ratios):
        return NONE
    return " / ".join(NONE if ratio is None else f"{ratio:.1f}×" for ratio in ratios)


def ratio_headline(runs: Sequence[Results]) -> str:
    """Over all cells, the least and the most times that podx is as fast as the eager baseline, by precision.

    Empty where no run timed both.
    """
    ratios: dict[str, list[float]] = {}
    for cell in (cell for run in runs for cell in ratio_cells(run)):
        for precision, ratio in zip(cell.precisions.values(), cell.against(ENCODE_ONCE), strict=True):
            ratios.setdefault(precision, []).extend([] if ratio is None else [ratio])
    said = [
        f"{min(times):.1f} to {max(times):.1f} times as fast as {ENCODE_ONCE} in {precision}"
        for precision, times in ratios.items()
        if times
    ]
    return f"On the same requests podx is {' and '.join(said)}." if said else ""


def _int8_notes(runs: Sequence[Results]) -> list[str]:
    """What multiplied int8, where it is known."""
    names = {precision_name(INT8, run.environment) for run in runs} - {INT8}
    return [f"int8 is {', '.join(sorted(names))}."] if names else []


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts the numbers in a name as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(name)]
