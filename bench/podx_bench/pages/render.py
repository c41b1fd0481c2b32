"""Reports as Markdown and as one HTML page, and tables on the terminal, all from the same objects."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader
from rich.table import Table

from podx_bench.harness.record_file import write_whole
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
        instead: what to say where there are no tables.
    """

    charts: tuple[str, ...] = ()
    tables: tuple[TextTable, ...] = ()
    instead: str = ""
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
    write_whole(folder / MARKDOWN_FILE, markdown_report(report))
    write_whole(folder / HTML_FILE, html_report(report))
    return folder / HTML_FILE


def rich_table(table: TextTable) -> Table:
    """For the terminal."""
    drawn = Table(title=table.title, title_justify="left")
    for place, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


PAGE_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2730; background: #fff; }
body { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e3e8ec; }
th { border-bottom-width: 2px; } th:first-child, td:first-child { text-align: left; }
tr.ours td { background: #e9f5f4; } .note { color: #5a6772; font-size: .875rem; max-width: 48rem; }
dl { display: grid; grid-template-columns: minmax(6rem, auto) 1fr; font-size: .875rem; }
dt, dd { margin: 0; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #e3e8ec; overflow-wrap: anywhere; }
dt { font-weight: 600; } @media (max-width: 34rem) { dl { display: block; } dt { border: 0; padding-bottom: 0; } }
figure { margin: 0; } svg { width: 100%; max-width: 32rem; height: auto; display: block; margin: 1rem 0; }
""".strip()


def html_table(table: TextTable, ours: str) -> str:
    """A heading, the table, which scrolls by itself on a narrow screen, and its notes. Rows of ``ours`` are tinted."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = "".join(_html_row(row, row[0].startswith(ours)) for row in table.rows)
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)
    return (
        f"<h2>{html.escape(table.title)}</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{notes}'
    )


def _html_row(row: Sequence[str], tinted: bool) -> str:
    mark = ' class="ours"' if tinted else ""
    return f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"


def html_facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what is to be said of each; a narrow screen shows them below one another."""
    return "<dl>" + "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in rows) + "</dl>"


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page that needs nothing from elsewhere."""
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{PAGE_STYLE}\n</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
