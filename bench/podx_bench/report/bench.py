"""The report of a run of ``podx bench``, made from ``results.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path

from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord
from podx_bench.pages.render import OURS, Facts, Report, Section
from podx_bench.pages.table import NONE, PERCENT, TextTable, short
from podx_bench.report.about import environment_rows, precision_name, roofline_tables
from podx_bench.report.charts import report_charts
from podx_bench.report.tables import accuracy_tables, short_tables, speed_tables, stream_tables
from podx_bench.scale.records import SCALE_FILE
from podx_bench.scale.report import scale_charts, scale_table
from podx_bench.serving.records import SERVING_FILE
from podx_bench.serving.report import serving_charts, serving_table

NO_SPEED = "Speed was not measured in this run."
NO_ACCURACY = "Accuracy was not measured in this run."
MACHINE = "Model, data, machine and versions"


def bench_report(results: Results, extra: tuple[Section, ...] = ()) -> Report:
    """The report of a run: headline, one chart and one table, all charts and tables, engines, notes, machine."""
    charts, tables = report_charts(results), short_tables(results)
    return Report(
        title=f"podx bench: {results.label}",
        headline=headline(results),
        sections=(
            Section(tuple(charts[:1]), tuple(_named(table, "in short") for table in tables[:1])),
            Section(tuple(charts[1:]), title="Charts" if charts[1:] else ""),
            Section(tables=tuple(_speed_details(results)), instead=NO_SPEED),
            Section(tables=tuple(stream_tables(results))),
            Section(tables=tuple(_accuracy_details(results)), instead=NO_ACCURACY),
            *extra,
        ),
        facts=(("Engines", engine_rows(results)), (MACHINE, environment_rows(results))),
        notes=results.notes,
    )


def engine_rows(results: Results) -> Facts:
    """Engines and what they are."""
    return [(f"`{name}`", summary) for name, summary in results.engines.items()]


def all_tables(results: Results) -> list[TextTable]:
    """Every table with all its columns that the run can fill."""
    return [*_speed_details(results), *stream_tables(results), *_accuracy_details(results)]


def _speed_details(results: Results) -> list[TextTable]:
    return [*speed_tables(results), *roofline_tables(results)] if results.options["speed"] else []


def _accuracy_details(results: Results) -> list[TextTable]:
    return accuracy_tables(results) if results.options["accuracy"] else []


def _named(table: TextTable, more: str) -> TextTable:
    return TextTable(f"{table.title}, {more}", table.header, table.rows, table.notes)


def headline(results: Results) -> str:
    """The answer in a few sentences: how fast, how accurate."""
    said = [*_speed_sentences(results), *_accuracy_sentences(results)]
    return " ".join(said) or "Nothing was measured."


def _speed_sentences(results: Results) -> list[str]:
    """Time per user of each of our engines at the largest batch size, by task."""
    sentences = []
    for task in results.options["tasks"]:
        records = [r for r in results.speed if r.task == task and r.engine.startswith(OURS)]
        size = max((record.batch_size for record in records), default=0)
        said = [f"{_name(results, r)} {short(r.ms_per_user)} ms{_times(r)}" for r in records if r.batch_size == size]
        if said:
            sentences.append(f"{task.capitalize()}, batches of {size}, per user: {'; '.join(said)}.")
    return sentences


def _name(results: Results, record: SpeedRecord) -> str:
    """The engine with its precision, int8 with its instructions."""
    precision = results.variants.get(record.engine, results.model)["precision"]
    return f"{record.engine} ({precision_name(precision, results.environment)})"


def _times(record: SpeedRecord) -> str:
    pairs = (("encode-once", record.ratio_vs_encode_once), ("as-published", record.ratio_vs_as_published))
    said = [f"{ratio:.1f} times as fast as {name}" for name, ratio in pairs if ratio is not None]
    return f", {' and '.join(said)}" if said else ""


def _accuracy_sentences(results: Results) -> list[str]:
    """HR@10 of each of our engines and how far it agrees with its reference, by task."""
    sentences = []
    for task in results.options["tasks"]:
        records = [r for r in results.accuracy if r.task == task and r.engine.startswith(OURS)]
        said = [_accuracy(record) for record in records if "hr_10" in record.metrics]
        if said:
            sentences.append(f"HR@10, {task}: {'; '.join(said)}.")
    return sentences


def _accuracy(record: AccuracyRecord) -> str:
    said = f"{record.engine} {record.metrics['hr_10']:.4f} on {record.users:,} users"
    if record.overlap is None:
        return said
    return f"{said}, {PERCENT * record.overlap:.1f} % of its top 10 shared with {record.overlap_with or NONE}"


def extra_sections(serving: Path | None, scale: Path | None) -> tuple[Section, ...]:
    """What ``podx bench serving`` and ``podx bench scale`` measured; None: that one is left out.

    Raises:
        DataError: a file is not what its bench writes.
    """
    sections = []
    if serving is not None:
        served = SERVING_FILE.read(serving)
        sections.append(Section(serving_charts(served.records), (serving_table(served),)))
    if scale is not None:
        grown = SCALE_FILE.read(scale)
        sections.append(Section(tuple(scale_charts(grown)), (scale_table(grown),)))
    return tuple(sections)
