"""The table and the charts of ``scale.json``, made from nothing else."""

from __future__ import annotations

from operator import attrgetter

from podx_bench.pages.drawing import OTHER_COLOURS, OURS_COLOURS, Line, line_chart
from podx_bench.pages.table import Column, TextTable, figures_table, short
from podx_bench.scale.records import EXCLUDED, ScaleResults

FIGURES = {
    "build s": "build_s", "write s": "write_s", "disk MB": "disk_mb", "load s": "load_s", "loaded MB": "loaded_mb",
    "peak MB": "peak_mb", "trie ms": "search_ms", "×": "search_ratio", "step ms": "step_ms", "× ": "step_ratio",
    "call ms": "call_ms", "×  ": "call_ratio",
}  # fmt: skip
"""Columns; those that no record has a figure for are left out."""
CHARTS = (
    ("MB", "megabytes", (("on disk", "disk_mb"), ("resident", "loaded_mb"))),
    ("seconds", "seconds", (("build", "build_s"), ("load", "load_s"))),
    ("ms of a decoding step", "ms", (("trie part", "search_ms"), ("graph", "step_ms"))),
)
"""Title, unit, and the names and fields of the lines."""


def scale_table(results: ScaleResults) -> TextTable:
    """A row per size."""
    rows = [((f"{record.items:,}",), [record]) for record in results.records]
    options = results.options
    loaded = "checksums, tables and graph, to the first answer" if results.model else "checksum, tables, 1,000 look-ups"
    notes = [
        "Synthetic items of 4 tokens, one from each of four books of 256. Build: sort ids and tokens, make the trie. "
        f"Load: {loaded}, in a fresh process, the files in the page cache. Loaded MB: resident memory of that process "
        "then, mapped pages included; peak MB: the most, all timed calls included. ×: against the smallest catalog "
        f"in the same round, median of {options['rounds']} rounds."
    ]
    if results.model:
        notes.append(
            f"Call: recommend.onnx, {options['batch']} users, {options['source']} tokens each, {options['beams']} "
            f"beams, {EXCLUDED} excluded items. Step: what the call takes beyond the encoder, over 5."
        )
    if any(record.search_ms for record in results.records):
        notes.append("Trie: a step of the step graphs' search over given log-probabilities.")
    columns = [
        Column(title, attrgetter(field), "{:.2f}×".format if "×" in title else short)
        for title, field in FIGURES.items()
        if any(getattr(record, field) is not None for record in results.records)
    ]
    return figures_table("Scale of the catalog", ("items",), rows, columns, notes)


def scale_charts(results: ScaleResults) -> list[str]:
    """Memory and disk, times of building and loading, time of a step: against the number of items."""
    sizes = [record.items for record in results.records]
    if len(set(sizes)) < 2:
        return []  # a line has two points at least
    charts = []
    for title, unit, series in CHARTS:
        lines = []
        for (name, field), colour in zip(series, (OTHER_COLOURS[0], OURS_COLOURS[0]), strict=True):
            values = [getattr(record, field) for record in results.records]
            if None not in values:
                lines.append(Line(name, tuple(zip(sizes, values, strict=True)), colour))
        charts += [line_chart(title, ("items", unit), lines, sizes)] if lines else []
    return charts
