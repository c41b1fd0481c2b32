"""The report of ``serving.json``, made from nothing else."""

from __future__ import annotations

from operator import attrgetter

from podx_bench.pages.about import machine_rows, model_rows
from podx_bench.pages.drawing import OURS_COLOUR, Line, line_chart
from podx_bench.pages.render import Report, Section
from podx_bench.pages.table import NONE, Column, TextTable, figures_table, short
from podx_bench.serving.records import CAMPAIGNS, LoadRecord, ServingResults

KEPT = {True: "yes", False: "NO", None: NONE}
SHARED = "Server and clients share the processor's cores."
COLUMNS = (
    Column("answers/s", attrgetter("users_per_s")),
    Column("× full batches", attrgetter("ratio"), "{:.2f}×".format),
    Column("p50 ms", attrgetter("p50_ms")),
    Column("p99 ms", attrgetter("p99_ms")),
    Column("requests per call", attrgetter("batch"), "{:.1f}".format),
    Column("cores of the clients", attrgetter("client_cores"), "{:.2f}".format),
)


def serving_tables(results: ServingResults) -> list[TextTable]:
    """A table of each campaign: what was shown, and what it had to be."""
    tables = []
    for record in results.records:
        rows = tuple((c.name, _figure(c.value), c.bound or NONE, KEPT[c.passed]) for c in record.checks)
        notes = (f"{CAMPAIGNS[record.name].capitalize()}. {record.seconds:,.0f} s.", *record.notes)
        tables.append(TextTable(record.name.capitalize(), ("of", "figure", "bound", "kept"), rows, notes))
        if record.load:
            tables.append(_load_table(record.load, results.options["max_batch"]))
    return tables


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else short(value)


def _load_table(records: tuple[LoadRecord, ...], max_batch: int) -> TextTable:
    note = (
        "Each client asks its next question when it has an answer; p50, p99: from the one to the other. ×: against "
        f"recommend_batch on batches of {max_batch} in the same turn, without a server. {SHARED}"
    )
    rows = [((str(record.clients),), [record]) for record in records]
    return figures_table("Load by number of clients", ("clients",), rows, COLUMNS, (note,))


def serving_report(results: ServingResults) -> Report:
    """The report of a run."""
    failed = [record.name for record in results.records if not record.passed]
    said = f"All bounds of {len(results.records)} campaigns are kept." if not failed else (
        f"Of {len(results.records)} campaigns, {len(failed)} miss a bound: {', '.join(failed)}."
    )  # fmt: skip
    if results.options["short"]:
        said += " This is the short form: times are shown and not judged."
    load = [(each.clients, each.users_per_s) for record in results.records for each in record.load]
    axes, line = ("clients that ask at once", "answers per second"), Line("podx serve", tuple(load), OURS_COLOUR)
    charts = (line_chart("Throughput against clients", axes, [line]),) if load else ()
    sections = (Section(charts, tuple(serving_tables(results))),)
    facts = (("Model, data and machine", [*model_rows(results), *machine_rows(results.environment)]),)
    return Report("podx bench serving", said, sections, facts, (SHARED,))
