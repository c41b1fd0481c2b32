"""The parts of a report: charts and tables that belong together, from the files that the benches write."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podx_bench.engines import OURS
from podx_bench.harness.records import Results
from podx_bench.pages.render import html_table, markdown_table
from podx_bench.pages.table import TextTable
from podx_bench.report.about import roofline_tables
from podx_bench.report.charts import accuracy_charts, latency_charts, stream_charts, tail_charts, tradeoff_charts
from podx_bench.report.tables import accuracy_tables, speed_tables, stream_tables
from podx_bench.scale import ScaleResults
from podx_bench.scale_report import scale_charts, scale_table
from podx_bench.service import ServiceResults
from podx_bench.service_report import service_charts, service_table

NO_SPEED = "Speed was not measured in this run."
NO_ACCURACY = "Accuracy was not measured in this run."


@dataclass(frozen=True)
class Section:
    """Charts (SVG) and tables that belong together. ``instead``: what to say where there are no tables."""

    charts: tuple[str, ...] = ()
    tables: tuple[TextTable, ...] = ()
    instead: str = ""


def results_sections(results: Results) -> list[Section]:
    """What a run of ``podx bench`` measured."""
    speed = [*speed_tables(results), *roofline_tables(results)] if results.options["speed"] else []
    accuracy = accuracy_tables(results) if results.options["accuracy"] else []
    return [
        Section((*latency_charts(results), *tail_charts(results)), tuple(speed), NO_SPEED),
        Section(tuple(stream_charts(results)), tuple(stream_tables(results))),
        Section((*tradeoff_charts(results), *accuracy_charts(results)), tuple(accuracy), NO_ACCURACY),
    ]


def extra_sections(service: Path | None, scale: Path | None) -> list[Section]:
    """What the benches of a service and of large catalogues measured; None: that one is left out.

    Raises:
        DataError: a file is not what its bench writes.
    """
    sections = []
    if service is not None:
        found = ServiceResults.load(service)
        charts = tuple(chart for _, chart in service_charts(found.records))
        sections.append(Section(charts, (service_table(found),)))
    if scale is not None:
        grown = ScaleResults.load(scale)
        sections.append(Section(tuple(scale_charts(grown)), (scale_table(grown),)))
    return sections


def all_tables(results: Results) -> list[TextTable]:
    """Every table that the run can fill, in the order of the report."""
    return [table for section in results_sections(results) for table in section.tables]


def markdown_sections(sections: Sequence[Section]) -> list[str]:
    """The tables as Markdown; charts are for the page."""
    parts = []
    for section in sections:
        parts += [markdown_table(table) for table in section.tables]
        if section.instead and not section.tables:
            parts.append(section.instead + "\n")
    return parts


def html_sections(sections: Sequence[Section]) -> list[str]:
    """Charts and tables as parts of a page."""
    parts: list[str] = []
    for section in sections:
        parts += section.charts
        parts += [html_table(table, OURS) for table in section.tables]
        if section.instead and not section.tables:
            parts.append(f"<p>{html.escape(section.instead)}</p>")
    return parts
