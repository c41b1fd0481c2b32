"""The table and the charts of ``scale.json``, made from nothing else."""

from __future__ import annotations

from podx_bench.pages.drawing import OTHER_COLOURS, OURS_COLOURS, Line, line_chart
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.scale import ScaleRecord, ScaleResults

HEADER = (
    "items",
    "build s",
    "write s",
    "disk MB",
    "load s",
    "loaded MB",
    "peak MB",
    "trie ms",
    "×",
    "step ms",
    "× ",
    "call ms",
    "×  ",
)


def scale_table(results: ScaleResults) -> TextTable:
    """A row per size."""
    rows = tuple(_row(record) for record in results.records)
    return TextTable("Scale of the catalogue", HEADER, rows, scale_notes(results))


def _row(record: ScaleRecord) -> tuple[str, ...]:
    return (
        f"{record.items:,}",
        short(record.build_s),
        short(record.write_s),
        short(record.disk_mb),
        short(record.load_s),
        short(record.loaded_mb),
        short(record.peak_mb),
        short(record.search_ms),
        _ratio(record.search_ratio),
        NONE if record.step_ms is None else short(record.step_ms),
        _ratio(record.step_ratio),
        NONE if record.call_ms is None else short(record.call_ms),
        _ratio(record.call_ratio),
    )


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


def scale_notes(results: ScaleResults) -> tuple[str, ...]:
    """What a reader must know."""
    options = results.options
    loaded = "checksums, tables and graph, to the first answer" if results.model else "checksum, tables, 1,000 look-ups"
    notes = [
        "Synthetic items of 4 tokens, one from each of four books of 256. Build: sort ids and tokens, make the trie. "
        f"Load: {loaded}, in a fresh process, the files in the page cache. Loaded MB: resident memory of that process "
        "then, mapped pages included; peak MB: the most, all timed calls included. ×: against the smallest catalogue "
        f"in the same round, median of {options['rounds']} rounds. Trie: a step of the step graphs' search over given "
        f"log-probabilities, {options['batch']} users, {options['beams']} beams."
    ]
    if results.model:
        notes.append(
            f"Call: recommend.onnx, {options['batch']} users, {options['source']} tokens each, {options['beams']} "
            f"beams, {options['excluded']} excluded items. Step: what the call takes beyond the encoder, over 5."
        )
    return tuple(notes)


def scale_charts(results: ScaleResults) -> list[str]:
    """Memory and disk, times of building and loading, time of a step: against the number of items."""
    records = results.records
    if len({record.items for record in records}) < 2:
        return []  # a line has two points at least
    step = [("trie part", OTHER_COLOURS[0], [record.search_ms for record in records])]
    if all(record.step_ms is not None for record in records):
        step.append(("graph", OURS_COLOURS[0], [record.step_ms or 0.0 for record in records]))
    panels = (
        (
            "MB",
            "megabytes",
            [
                ("on disk", OTHER_COLOURS[0], [record.disk_mb for record in records]),
                ("resident", OURS_COLOURS[0], [record.loaded_mb for record in records]),
            ],
        ),
        (
            "seconds",
            "seconds",
            [
                ("build", OTHER_COLOURS[0], [record.build_s for record in records]),
                ("load", OURS_COLOURS[0], [record.load_s for record in records]),
            ],
        ),
        ("ms of a decoding step", "ms", step),
    )
    ticks = [record.items for record in records]
    return [
        line_chart(
            title,
            ("items", unit),
            [Line(name, tuple(zip(map(float, ticks), values, strict=True)), colour) for name, colour, values in lines],
            ticks,
        )
        for title, unit, lines in panels
    ]
