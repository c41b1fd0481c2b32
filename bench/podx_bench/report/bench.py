"""The report of a run of ``podx bench``, made from ``results.json`` and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord
from podx_bench.pages.render import OURS, Report, Section
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
    engines = [(f"`{name}`", summary) for name, summary in results.engines.items()]
    return Report(
        title=f"podx bench: {results.label}",
        headline=headline(results),
        sections=(
            Section(tuple(charts[:1]), tuple(replace(table, title=f"{table.title}, in short") for table in tables[:1])),
            Section(tuple(charts[1:]), title="Charts" if charts[1:] else ""),
            Section(tables=tuple(_speed_details(results)), instead=NO_SPEED),
            Section(tables=tuple(stream_tables(results))),
            Section(tables=tuple(_accuracy_details(results)), instead=NO_ACCURACY),
            *extra,
        ),
        facts=(("Engines", engines), (MACHINE, environment_rows(results))),
        notes=results.notes,
    )


def all_tables(results: Results) -> list[TextTable]:
    """Every table with all its columns that the run can fill."""
    return [*_speed_details(results), *stream_tables(results), *_accuracy_details(results)]


def _speed_details(results: Results) -> list[TextTable]:
    return [*speed_tables(results), *roofline_tables(results)] if results.options["speed"] else []


def _accuracy_details(results: Results) -> list[TextTable]:
    return accuracy_tables(results) if results.options["accuracy"] else []


def headline(results: Results) -> str:
    """The answer in a few sentences: of our engines, time per user at the largest batch size, then HR@10, by task."""
    sentences = []
    for task in results.options["tasks"]:
        timed = [r for r in results.speed if r.task == task and r.engine.startswith(OURS)]
        size = max((record.batch_size for record in timed), default=0)
        if timed:
            said = "; ".join(_speed(results, record) for record in timed if record.batch_size == size)
            sentences.append(f"{task.capitalize()}, batches of {size}, per user: {said}.")
    for task in results.options["tasks"]:
        scored = [r for r in results.accuracy if r.task == task and r.engine.startswith(OURS) and "hr_10" in r.metrics]
        if scored:
            sentences.append(f"HR@10, {task}: {'; '.join(map(_accuracy, scored))}.")
    return " ".join(sentences) or "Nothing was measured."


def _speed(results: Results, record: SpeedRecord) -> str:
    """Time of an engine, int8 named with its instructions, and how many times as fast as the baselines it is."""
    precision = results.variants.get(record.engine, results.model)["precision"]
    name = f"{record.engine} ({precision_name(precision, results.environment)})"
    pairs = (("encode-once", record.ratio_vs_encode_once), ("as-published", record.ratio_vs_as_published))
    said = " and ".join(f"{ratio:.1f} times as fast as {name}" for name, ratio in pairs if ratio is not None)
    return f"{name} {short(record.ms_per_user)} ms{said and f', {said}'}"


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
