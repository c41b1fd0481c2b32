"""The report of ``serving.json``, made from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from podx_bench.pages.about import machine_rows, model_rows
from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, Line, line_chart, lines_through
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import PERCENTILES, Column, TextTable, figures_table
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, ServingRecord, ServingResults

YARDSTICK_COLOUR = "#5a6772"
LINES = {BATCHER: ("podx.Batcher", OURS_COLOUR), DIRECT: ("direct calls", OTHER_COLOUR)}
COLUMNS = (
    Column("users/s", attrgetter("users_per_s")),
    Column("× full batches", attrgetter("ratio"), "{:.2f}×".format),
    *PERCENTILES,
    Column("requests per call", attrgetter("mean_batch"), "{:.1f}".format),
)


def serving_table(results: ServingResults) -> TextTable:
    """A row per way of asking and number of clients, the yardstick first."""
    order = (FULL_BATCHES, BATCHER, DIRECT)
    ordered = sorted(results.records, key=lambda record: (order.index(record.mode), record.clients))
    rows = [((LINES.get(r.mode, (r.mode,))[0], str(r.clients)), [r]) for r in ordered]
    options = results.options
    note = (
        "Each client is a thread that asks its next question when it has an answer. p50, p95, p99: from question to "
        f"answer; for full batches of a call of {options['max_batch']}. ×: against full batches in the same turn. "
        f"The batcher merges at most {options['max_batch']} and pauses at most {options['max_wait_ms']:g} ms."
    )
    return figures_table(f"Serving, {options['task']}", ("asked through", "clients"), rows, COLUMNS, (note,))


def serving_charts(records: Sequence[ServingRecord]) -> tuple[str, ...]:
    """Throughput against the number of clients, and against p99 latency, with the rate of full batches as a bound."""
    asked = sorted((record for record in records if record.mode in LINES), key=lambda record: record.clients)
    counts = ", ".join(map(str, sorted({record.clients for record in asked})))
    charts = []
    for title, name, field in (
        ("clients", "clients that ask at the same time", "clients"),
        (f"p99 latency of {counts} clients", "p99, ms, less is better", "p99_ms"),
    ):
        points = [(LINES[record.mode][0], (getattr(record, field), record.users_per_s)) for record in asked]
        lines = lines_through(points, dict(LINES.values()))
        places = [x for _, (x, _) in points]
        for bound in (record.users_per_s for record in records if record.mode == FULL_BATCHES):
            ends = ((min(places), bound), (max(places), bound))
            lines.append(Line(FULL_BATCHES, ends, YARDSTICK_COLOUR, dashed=True))
        charts.append(line_chart(f"Throughput against {title}", (name, "users per second"), lines))
    return tuple(charts)


def serving_report(results: ServingResults) -> Report:
    """The report of a run."""
    facts = [*model_rows(results), *machine_rows(results.environment)]
    best = max((record for record in results.records if record.mode == BATCHER), key=lambda record: record.clients)
    headline = f"{best.clients} clients get {best.ratio or 0:.2f} times the rate of full batches through podx.Batcher."
    section = Section(serving_charts(results.records), (serving_table(results),))
    return Report("podx bench serving", headline, (section,), (("Model, data and machine", facts),))
