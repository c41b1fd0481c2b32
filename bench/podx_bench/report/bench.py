"""The report of runs of ``podx bench``, made from their ``results.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from podx.errors import ConfigError
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord
from podx_bench.pages.about import environment_rows, precision_name, roofline_tables
from podx_bench.pages.render import OURS, Report, Section
from podx_bench.pages.table import NONE, PERCENT, short
from podx_bench.report.charts import beam_charts, report_charts
from podx_bench.report.ratios import ratio_headline, ratio_table
from podx_bench.report.tables import ACCURACY, SPEED, STREAM, all_tables, grouped, overview_tables, short_tables
from podx_bench.scale.records import SCALE_FILE
from podx_bench.scale.report import scale_charts, scale_table

SEVERAL_TITLE = "podx bench: runs compared"
NO_SPEED = "Speed was not measured in this run."
NO_ACCURACY = "Accuracy was not measured in this run."
MACHINE = "Model, data, machine and versions"


def bench_report(runs: Sequence[Results], extra: Sequence[Section] = ()) -> Report:
    """The report of a run, or of several side by side: headline, one chart and one table, then all there is.

    Runs of one label, as of several seeds, are put together; charts and machine are those of the first.

    Args:
        extra: what other benches measured, see :func:`scale_sections`.

    Raises:
        ConfigError: there are several runs and nothing to compare.
    """
    groups, several = grouped(runs), len(runs) > 1
    of_run = {label: f", {label}" if several else "" for label in groups}
    speed, stream, accuracy = (all_tables(groups, field) for field in (SPEED, STREAM, ACCURACY))
    if not several:
        title, said = f"podx bench: {runs[0].label}", headline(runs[0])
        opening = [replace(table, title=f"{table.title}, in short") for table in short_tables(runs[0])[:1]]
    elif speed or stream or accuracy:
        title, said = SEVERAL_TITLE, ratio_headline(runs)
        opening = [*([ratio_table(runs)] if said else []), *overview_tables(groups)]
    else:
        raise ConfigError("the runs hold neither speed nor accuracy records: give results of finished runs")
    for label, (first, *_) in groups.items():
        speed += [replace(table, title=f"{table.title}{of_run[label]}") for table in roofline_tables(first)]
    drawn = {label: report_charts(first) for label, (first, *_) in groups.items()}
    leading = next((charts.pop(0) for charts in drawn.values() if charts), None)
    engines = {f"`{name}`": summary for run in runs for name, summary in run.engines.items()}
    machines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for label, (first, *_) in groups.items():
        machines.setdefault(tuple(environment_rows(first)), []).append(label)
    facts = [(f"{MACHINE}, {', '.join(labels)}" if several else MACHINE, rows) for rows, labels in machines.items()]
    notes = [f"{run.label}: {note}" if several else note for run in runs for note in run.notes]
    if not several:
        notes += [text for tables, text in ((speed, NO_SPEED), (accuracy, NO_ACCURACY)) if not tables]
    return Report(
        title=title,
        headline=said,
        sections=(
            Section((leading,) if leading else (), tuple(opening[:1])),
            *(Section(tuple(charts), title=f"Charts{of_run[label]}") for label, charts in drawn.items() if charts),
            *(Section((chart,)) for chart in (beam_charts(runs) if several else ())),
            Section(tables=tuple(opening[1:])),
            Section(tables=tuple(speed)),
            Section(tables=tuple(stream)),
            Section(tables=tuple(accuracy)),
            *extra,
        ),
        facts=(("Engines", list(engines.items())), *facts),
        notes=tuple(notes),
    )


def headline(results: Results) -> str:
    """The answer in a few sentences: of our engines, time per user at the largest batch size, then HR@10, by task."""
    sentences = []
    for task in results.options["tasks"]:
        timed = [r for r in results.speed if r.task == task and r.engine.startswith(OURS)]
        size = max((record.batch_size for record in timed), default=0)
        if timed:
            said = "; ".join(_speed(results, record) for record in timed if record.batch_size == size)
            sentences.append(f"{task.capitalize()}, batches of {size}, per user: {said}.")
    for streamed in (r for r in results.stream if r.engine.startswith(OURS)):
        sentences.append(
            f"{streamed.task.capitalize()}, {streamed.users:,} users in one call: {streamed.engine} "
            f"{short(1000 / streamed.users_per_s)} ms per user."
        )
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


def scale_sections(scale: Path | None) -> tuple[Section, ...]:
    """What ``podx bench scale`` measured; None: it is left out.

    Raises:
        DataError: the file is not what that bench writes.
    """
    if scale is None:
        return ()
    grown = SCALE_FILE.read(scale)
    return (Section(tuple(scale_charts(grown)), (scale_table(grown),)),)
