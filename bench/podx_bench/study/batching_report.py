"""The tables, the chart and the page of ``podx study batching``, from ``study.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from podx_bench.accuracy_report.tables import REPORTED
from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, bar_figure
from podx_bench.pages.render import html_facts, html_table
from podx_bench.pages.table import NONE, PERCENT, TextTable, short
from podx_bench.published import TABLE_5
from podx_bench.study.chart import save_figure
from podx_bench.study.options import SECONDS
from podx_bench.study.report import NO_ROW, environment_facts, write_page
from podx_bench.study.strategies import ALTERNATED, MIXED, BatchingResults, StrategyRecord

TITLE = "Task-alternated and sample-mixed training (the paper's Table 5)"
NAMES = {MIXED: "sample-mixed", ALTERNATED: "task-alternated"}
THOUSAND = 1e3
MEGABYTES = 1e3
MINUTES = 60
_HEADER = (
    "batches", "batch", "peak GB", "too large", "updates", "records", "padding", "updates/s", "min/epoch", "s/1,000",
)  # fmt: skip


def batching_tables(results: BatchingResults) -> list[TextTable]:
    """Both strategies beside the paper's rows, and every batch size that was tried."""
    rows = [(f"{row.name} ({REPORTED})", *[NONE] * 7, row.time_per_epoch, NONE) for row in TABLE_5]
    rows += [_row(record) for record in results.strategies]
    main = TextTable(TITLE, _HEADER, tuple(rows), tuple(_notes(results)))
    tried = [
        (NAMES[record.name], str(size), NONE if peak is None else f"{peak / MEGABYTES:.2f}")
        for record in results.strategies
        for size, peak in record.probes
    ]
    note = f"{NONE}: it ran out of memory. Each in a fresh process, on the heaviest batches of an epoch."
    return [main, TextTable("Memory by batch size", ("batches", "batch size", "peak GB"), tuple(tried), (note,))]


def _row(record: StrategyRecord) -> tuple[str, ...]:
    share = record.padding_share()
    counts = [record.of_epoch(name) for name in ("updates_per_epoch", "records_per_epoch")]
    rates = [one["updates"] / one["seconds"] for one in record.rounds]
    return (
        NAMES[record.name],
        NONE if record.batch_size is None else f"{record.batch_size:,}",
        NONE if record.peak_mb is None else f"{record.peak_mb / MEGABYTES:.2f}",
        NONE if record.too_large is None else f"{record.too_large:,}",
        *(NONE if count is None else f"{count:,}" for count in counts),
        NONE if share is None else f"{PERCENT * share:.1f} %",
        short(median(rates)) if rates else NONE,
        short(median(record.epoch_seconds()) / SECONDS) if rates else NONE,
        short(THOUSAND * median(record.record_seconds())) if rates else NONE,
    )


def _notes(results: BatchingResults) -> list[str]:
    options = results.options
    what = "peak memory of the process" if options["device"] == "cpu" else "peak of the tensors on the GPU"
    timed = (
        "a whole epoch"
        if options["full_epoch"]
        else f"updates per second, {options['updates']} updates in each of {options['rounds']} turns of both, times "
        f"the updates of an epoch"
    )
    notes = [
        f"Batch: the largest whose {what} stays within {options['memory_gb']:g} GB, found to within "
        f"{PERCENT * options['closeness']:g} %. Updates, records: of an epoch. Min/epoch: {timed}; medians. "
        f"S/1,000: seconds per 1,000 records. Padding: share of all tokens of the timed batches, inputs and targets.",
        "An epoch of alternated training passes the task with most records once and repeats the others to the same "
        "number; one of mixed training passes every record once. So compare the time of records as well.",
        f"{REPORTED}: by the paper on Sports, one V100S, both at the largest batch; sample-mixed takes "
        f"{reported_ratio():.1f} times as long for an epoch.",
    ]
    if options["device"] == "cpu":
        notes.append("Peak memory of a process holds what its allocator could not reuse, which varies from run to run.")
    epoch, record = results.ratio(), results.ratio("record_seconds")
    if epoch is not None and record is not None:
        notes.append(
            f"Here sample-mixed training takes {epoch:.2f} times as long for an epoch as task-alternated training, and "
            f"{record:.2f} times as long for a record (median of paired rounds)."
        )
    if results.extra:
        notes.append(f"Both: podx train {' '.join(results.extra)}")
    return [*notes, *results.notes]


def reported_ratio() -> float:
    """How many times as long an epoch of sample-mixed training takes in the paper's Table 5."""
    mixed, alternated = (
        next(_minutes(row.time_per_epoch) for row in TABLE_5 if row.name == NAMES[name]) for name in (MIXED, ALTERNATED)
    )
    return mixed / alternated


def _minutes(text: str) -> int:
    """Minutes of a time such as 1h14m."""
    hours, _, minutes = text.removesuffix("m").rpartition("h")
    return MINUTES * int(hours or 0) + int(minutes)


def batching_figure(results: BatchingResults) -> Figure | None:
    """Time of an epoch of both; None: it was not measured."""
    if results.ratio() is None:
        return None
    bars = [(NAMES[one.name], median(one.epoch_seconds()) / SECONDS) for one in results.strategies]
    colours = [OURS_COLOUR if one.name == ALTERNATED else OTHER_COLOUR for one in results.strategies]
    unit = f"minutes per epoch, less is better; {results.options['memory_gb']:g} GB"
    return bar_figure("Time of an epoch at the largest batch", unit, bars, colours, short)


def write_batching(results: BatchingResults, folder: Path) -> Path:
    """Write chart and page; returns the path of the page. Without any times there is no chart."""
    figure = batching_figure(results)
    drawings = [] if figure is None else [save_figure(figure, folder)]
    body = [html_facts(environment_facts(results.environment, results.dataset)), *drawings]
    body += [html_table(table, NO_ROW) for table in batching_tables(results)]
    return write_page(folder, TITLE, body)
