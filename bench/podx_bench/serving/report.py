"""The report of ``serving.json``, made from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, Line, line_chart
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, ServingRecord, ServingResults

YARDSTICK_COLOUR = "#5a6772"
LINES = {BATCHER: ("podx.Batcher", OURS_COLOUR), DIRECT: ("direct calls", OTHER_COLOUR)}
HEADER = ("asked through", "clients", "users/s", "× full batches", "p50 ms", "p95 ms", "p99 ms", "requests per call")


def serving_table(results: ServingResults) -> TextTable:
    """A row per way of asking and number of clients, the yardstick first."""
    order = (FULL_BATCHES, BATCHER, DIRECT)
    rows = tuple(
        (
            LINES[record.mode][0] if record.mode in LINES else record.mode,
            str(record.clients),
            short(record.users_per_s),
            NONE if record.ratio is None else f"{record.ratio:.2f}×",
            *map(short, (record.p50_ms, record.p95_ms, record.p99_ms)),
            f"{record.mean_batch:.1f}",
        )
        for record in sorted(results.records, key=lambda record: (order.index(record.mode), record.clients))
    )
    options = results.options
    note = (
        "Each client is a thread that asks its next question when it has an answer. p50, p95, p99: from question to "
        f"answer; for full batches of a call of {options['max_batch']}. ×: against full batches in the same turn. "
        f"The batcher merges at most {options['max_batch']} and pauses at most {options['max_wait_ms']:g} ms."
    )
    return TextTable(f"Serving, {options['task']}", HEADER, rows, (note,))


def serving_charts(records: Sequence[ServingRecord]) -> tuple[str, ...]:
    """Throughput against the number of clients, and against p99 latency, with the rate of full batches as a bound."""
    asked = sorted((record for record in records if record.mode in LINES), key=lambda record: record.clients)
    counts = ", ".join(map(str, sorted({record.clients for record in asked})))
    charts = []
    for title, name, field in (
        ("clients", "clients that ask at the same time", "clients"),
        (f"p99 latency of {counts} clients", "p99, ms, less is better", "p99_ms"),
    ):
        points = [(record.mode, (getattr(record, field), record.users_per_s)) for record in asked]
        modes = {mode: tuple(point for of, point in points if of == mode) for mode in LINES}
        lines = [Line(LINES[mode][0], line, LINES[mode][1]) for mode, line in modes.items() if line]
        places = [x for _, (x, _) in points]
        for bound in (record.users_per_s for record in records if record.mode == FULL_BATCHES):
            ends = ((min(places), bound), (max(places), bound))
            lines.append(Line(FULL_BATCHES, ends, YARDSTICK_COLOUR, dashed=True))
        charts.append(line_chart(f"Throughput against {title}", (name, "users per second"), lines))
    return tuple(charts)


def serving_report(results: ServingResults) -> Report:
    """The report of a run."""
    environment, model, dataset = results.environment, results.model, results.dataset
    facts = (
        ("processor", f"{environment['cpu']}, {environment['usable_cores']} usable cores"),
        ("graphics", environment["gpu"] or "none"),
        ("device", f"{environment['device']}, {environment['threads']} threads inside an operator"),
        ("model", f"{model['precision']}, {model['parameters'] or 'unknown number of'} weights"),
        ("data", f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items"),
        ("search", f"{results.options['beams']} beams, {results.options['k']} answers"),
    )
    best = max((record for record in results.records if record.mode == BATCHER), key=lambda record: record.clients)
    headline = f"{best.clients} clients get {best.ratio or 0:.2f} times the rate of full batches through podx.Batcher."
    section = Section(serving_charts(results.records), (serving_table(results),))
    return Report("podx bench serving", headline, (section,), (("Model, data and machine", facts),))
