"""The report of ``serving.json``, made from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, Line, line_chart
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.serving.records import BATCHER, DIRECT, FULL_BATCHES, ServingRecord, ServingResults

YARDSTICK_COLOUR = "#5a6772"
COLOURS = {BATCHER: OURS_COLOUR, DIRECT: OTHER_COLOUR}
NAMES = {BATCHER: "podx.Batcher", DIRECT: "direct calls"}
HEADER = ("asked through", "clients", "users/s", "× full batches", "p50 ms", "p95 ms", "p99 ms", "requests per call")


def serving_table(results: ServingResults) -> TextTable:
    """A row per way of asking and number of clients, the yardstick first."""
    order = (FULL_BATCHES, BATCHER, DIRECT)
    records = sorted(results.records, key=lambda record: (order.index(record.mode), record.clients))
    rows = tuple(
        (
            NAMES.get(record.mode, record.mode),
            str(record.clients),
            short(record.users_per_s),
            NONE if record.ratio is None else f"{record.ratio:.2f}×",
            *(short(value) for value in (record.p50_ms, record.p95_ms, record.p99_ms)),
            f"{record.mean_batch:.1f}",
        )
        for record in records
    )
    return TextTable(f"Serving, {results.options['task']}", HEADER, rows, _notes(results))


def _notes(results: ServingResults) -> tuple[str, ...]:
    """What a reader must know, and the check where there was one."""
    options, check = results.options, results.check
    note = (
        f"Each client is a thread that asks its next question when it has an answer. p50, p95, p99: from question to "
        f"answer; for full batches of a call of {options['max_batch']}. ×: against full batches in the same turn. "
        f"The batcher merges at most {options['max_batch']} and pauses at most {options['max_wait_ms']:g} ms."
    )
    if check is None:
        return (note,)
    said = (
        f"Check: {check.requests:,} requests of {check.clients} clients through the batcher, {check.lost} lost, "
        f"{check.wrong} wrong, {check.rounded} with items of like score in another order "
        f"({check.distinct:,} different answers expected)."
    )
    return (note, said)


def serving_charts(records: Sequence[ServingRecord]) -> tuple[str, str]:
    """Throughput against the number of clients, and against p99 latency."""
    lines = {mode: sorted((r for r in records if r.mode == mode), key=lambda r: r.clients) for mode in COLOURS}
    counts = sorted({record.clients for line in lines.values() for record in line})
    by_clients = [(mode, [(r.clients, r.users_per_s) for r in line]) for mode, line in lines.items()]
    by_p99 = [(mode, [(r.p99_ms, r.users_per_s) for r in line]) for mode, line in lines.items()]
    rate, asked = "users per second", f"{', '.join(map(str, counts))} clients"
    return (
        _chart(records, "Throughput against clients", ("clients that ask at the same time", rate), by_clients),
        _chart(records, f"Throughput against p99 latency of {asked}", ("p99, ms, less is better", rate), by_p99),
    )


def _chart(
    records: Sequence[ServingRecord],
    title: str,
    axis_names: tuple[str, str],
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
) -> str:
    """A line for each way of asking, and the rate of full batches as a bound."""
    lines = [Line(NAMES[mode], tuple(points), COLOURS[mode]) for mode, points in series if points]
    places = [x for line in lines for x, _ in line.points]
    for record in records:
        if record.mode == FULL_BATCHES:
            bound = tuple((x, record.users_per_s) for x in (min(places), max(places)))
            lines.append(Line(FULL_BATCHES, bound, YARDSTICK_COLOUR, dashed=True))
    return line_chart(title, axis_names, lines)


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
    merged = [record for record in results.records if record.mode == BATCHER and record.ratio is not None]
    best = max(merged, key=lambda record: record.clients)
    headline = f"{best.clients} clients get {best.ratio or 0:.2f} times the rate of full batches through podx.Batcher."
    section = Section(serving_charts(results.records), (serving_table(results),))
    return Report("podx bench serving", headline, (section,), (("Model, data and machine", facts),))
