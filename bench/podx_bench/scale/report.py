"""The table and the charts of ``scale.json``, made from nothing else."""

from __future__ import annotations

from podx_bench.pages.drawing import OTHER_COLOURS, OURS_COLOURS, Line, line_chart
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.scale.records import ScaleRecord, ScaleResults

HEADER = (
    "items", "build s", "write s", "disk MB", "load s", "loaded MB", "peak MB", "trie ms", "×", "step ms", "× ",
    "call ms", "×  ",
)  # fmt: skip


def scale_table(results: ScaleResults) -> TextTable:
    """A row per size."""
    return TextTable("Scale of the catalog", HEADER, tuple(map(_row, results.records)), scale_notes(results))


def _row(record: ScaleRecord) -> tuple[str, ...]:
    sizes = (
        record.build_s, record.write_s, record.disk_mb, record.load_s, record.loaded_mb, record.peak_mb
    )  # fmt: skip
    times = (
        (record.search_ms, record.search_ratio),
        (record.step_ms, record.step_ratio),
        (record.call_ms, record.call_ratio),
    )
    cells = [
        cell
        for ms, ratio in times
        for cell in (NONE if ms is None else short(ms), NONE if ratio is None else f"{ratio:.2f}×")
    ]
    return (f"{record.items:,}", *map(short, sizes), *cells)


def scale_notes(results: ScaleResults) -> tuple[str, ...]:
    """What a reader must know."""
    options = results.options
    loaded = "checksums, tables and graph, to the first answer" if results.model else "checksum, tables, 1,000 look-ups"
    notes = [
        "Synthetic items of 4 tokens, one from each of four books of 256. Build: sort ids and tokens, make the trie. "
        f"Load: {loaded}, in a fresh process, the files in the page cache. Loaded MB: resident memory of that process "
        "then, mapped pages included; peak MB: the most, all timed calls included. ×: against the smallest catalog "
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
    first, second = OTHER_COLOURS[0], OURS_COLOURS[0]
    panels = (
        ("MB", "megabytes", (("on disk", "disk_mb", first), ("resident", "loaded_mb", second))),
        ("seconds", "seconds", (("build", "build_s", first), ("load", "load_s", second))),
        ("ms of a decoding step", "ms", (("trie part", "search_ms", first), ("graph", "step_ms", second))),
    )
    charts = []
    for title, unit, series in panels:
        lines = []
        for name, field, colour in series:
            values = [getattr(record, field) for record in records]
            if None not in values:
                points = tuple((float(r.items), value) for r, value in zip(records, values, strict=True))
                lines.append(Line(name, points, colour))
        charts.append(line_chart(title, ("items", unit), lines, [record.items for record in records]))
    return charts
