"""Reports as Markdown and as one HTML page, and tables on the terminal, all from the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader
from rich.table import Table

from podx.atomic import write_text
from podx_bench.pages.table import TextTable

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"
OURS = "podx"
Facts = Sequence[tuple[str, str]]
"""Names, and what is to be said of each."""


@dataclass(frozen=True)
class Section:
    """Charts (SVG) and tables that belong together.

    Attributes:
        title: heading of the page's section; empty: none.
    """

    charts: tuple[str, ...] = ()
    tables: tuple[TextTable, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Report:
    """A report: the answer first, where it was measured last.

    Attributes:
        headline: the answer in a sentence or two.
        sections: the first has the one chart and the one table that show it.
        facts: titled lists at the end: engines, machine, versions.
        notes: what a reader must know of this run.
        ours: rows of tables that begin so are tinted.
    """

    title: str
    headline: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, Facts], ...] = ()
    notes: tuple[str, ...] = ()
    ours: str = OURS


def markdown_table(table: TextTable) -> str:
    """A heading, the table and its notes."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    lines = [_markdown_row(row) for row in (table.header, rule, *table.rows)]
    return "\n".join([f"## {table.title}", "", *lines, "", *table.notes]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown_report(report: Report) -> str:
    """The report as Markdown, without its charts."""
    return _render("report.md.jinja", report)


def html_report(report: Report) -> str:
    """The report as one page that needs nothing from elsewhere, charts inside."""
    return _render("report.html.jinja", report)


def _render(template: str, report: Report) -> str:
    pages = Environment(
        loader=PackageLoader("podx_bench.pages"),
        autoescape=template.endswith("html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["markdown"] = markdown_table
    return pages.get_template(template).render(report=report).rstrip() + "\n"


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.md`` and ``report.html``; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKDOWN_FILE, markdown_report(report))
    write_text(folder / HTML_FILE, html_report(report))
    return folder / HTML_FILE


def rich_table(table: TextTable) -> Table:
    """For the terminal."""
    drawn = Table(title=table.title, title_justify="left")
    for place, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
