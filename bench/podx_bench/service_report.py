"""The table, the charts and the page of ``service.json``, made from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, TEXT, TITLE, WIDTH_IN, svg
from podx_bench.pages.render import html_facts, html_page, html_table
from podx_bench.pages.table import NONE, TextTable, short
from podx_bench.service import BATCHER, DIRECT, FULL_BATCHES, ServiceRecord, ServiceResults

SERVICE_PAGE = "service.html"
HEIGHT_IN = 3.2
HEADROOM = 1.1
YARDSTICK_COLOUR = "#5a6772"
COLOURS = {BATCHER: OURS_COLOUR, DIRECT: OTHER_COLOUR}
NAMES = {BATCHER: "podx.Batcher", DIRECT: "direct calls"}
HEADER = ("asked through", "clients", "users/s", "× full batches", "p50 ms", "p95 ms", "p99 ms", "requests per call")


def service_table(results: ServiceResults) -> TextTable:
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
    return TextTable(f"Service, {results.options['task']}", HEADER, rows, service_notes(results))


def service_notes(results: ServiceResults) -> tuple[str, ...]:
    """What a reader must know, and the check where there was one."""
    options = results.options
    notes = [
        f"Each client is a thread that asks its next question when it has an answer. p50, p95, p99: from question to "
        f"answer; for full batches of a call of {options['max_batch']}. ×: against full batches in the same turn. "
        f"The batcher merges at most {options['max_batch']} and pauses at most {options['max_wait_ms']:g} ms."
    ]
    if results.check is not None:
        check = results.check
        notes.append(
            f"Check: {check.requests:,} requests of {check.clients} clients through the batcher, {check.lost} lost, "
            f"{check.wrong} wrong, {check.rounded} with items of like score in another order "
            f"({check.distinct:,} different answers expected)."
        )
    return tuple(notes)


def service_charts(records: Sequence[ServiceRecord]) -> list[tuple[str, str]]:
    """(title, SVG): throughput against the number of clients, and against p99 latency."""
    return [
        ("Throughput against clients", _against_clients(records)),
        ("Throughput against p99 latency", _against_p99(records)),
    ]


def _lines(records: Sequence[ServiceRecord]) -> list[tuple[str, list[ServiceRecord]]]:
    found = [(mode, sorted((r for r in records if r.mode == mode), key=lambda r: r.clients)) for mode in COLOURS]
    return [(mode, line) for mode, line in found if line]


def _axes(title: str, across: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(title, fontsize=TITLE, loc="left")
    axes.set_xlabel(across, fontsize=TEXT)
    axes.set_ylabel("users per second", fontsize=TEXT)
    axes.set_xscale("log", base=2)
    axes.tick_params(labelsize=TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _yardstick(axes: Axes, records: Sequence[ServiceRecord]) -> None:
    for record in records:
        if record.mode == FULL_BATCHES:
            axes.axhline(record.users_per_s, color=YARDSTICK_COLOUR, linestyle="--", linewidth=1, label="full batches")


def _finish(figure: Figure, axes: Axes) -> str:
    axes.set_ylim(0, HEADROOM * axes.get_ylim()[1])
    axes.legend(fontsize=TEXT, frameon=False)
    return svg(figure)


def _against_clients(records: Sequence[ServiceRecord]) -> str:
    figure, axes = _axes("Throughput against clients", "clients that ask at the same time")
    for mode, line in _lines(records):
        clients = [record.clients for record in line]
        axes.plot(clients, [r.users_per_s for r in line], marker="o", color=COLOURS[mode], label=NAMES[mode])
    counts = sorted({record.clients for record in records if record.mode != FULL_BATCHES})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    _yardstick(axes, records)
    return _finish(figure, axes)


def _against_p99(records: Sequence[ServiceRecord]) -> str:
    """Each point is labelled with its number of clients."""
    figure, axes = _axes("Throughput against p99 latency; figures: clients", "p99, ms, less is better")
    for mode, line in _lines(records):
        p99, rate = [r.p99_ms for r in line], [r.users_per_s for r in line]
        axes.plot(p99, rate, marker="o", color=COLOURS[mode], label=NAMES[mode])
        for record in line:
            place = (record.p99_ms, record.users_per_s)
            axes.annotate(str(record.clients), place, xytext=(4, 4), textcoords="offset points", fontsize=TEXT)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    _yardstick(axes, records)
    return _finish(figure, axes)


def write_service_page(results: ServiceResults, folder: Path) -> Path:
    """Write ``service.html``; returns its path."""
    environment, model, dataset = results.environment, results.model, results.dataset
    facts = [
        ("processor", f"{environment['cpu']}, {environment['usable_cores']} usable cores"),
        ("graphics", environment["gpu"] or "none"),
        ("device", f"{environment['device']}, {environment['threads']} threads inside an operator"),
        ("model", f"{model['precision']}, {model['parameters'] or 'unknown number of'} weights"),
        ("data", f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items"),
        ("search", f"{results.options['beams']} beams, {results.options['k']} answers"),
    ]
    charts = [chart for _, chart in service_charts(results.records)]
    body = [html_facts(facts), *charts, html_table(service_table(results), NAMES[BATCHER])]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / SERVICE_PAGE
    page.write_text(html_page("podx bench-service", body), encoding="utf-8")
    return page
