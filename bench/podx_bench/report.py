"""``report.md`` and ``report.html`` from ``results.json`` and nothing else.

``python -m podx_bench.report results.json`` draws them again beside the file.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated

import typer

from podx_bench.charts import accuracy_charts, speed_charts
from podx_bench.command import run_command
from podx_bench.engines import OURS
from podx_bench.render import html_facts, html_page, html_table, markdown_table
from podx_bench.results import Results
from podx_bench.tables import TextTable, accuracy_tables, environment_rows, speed_tables

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
NO_SPEED = "Speed was not measured in this run."
NO_ACCURACY = "Accuracy was not measured in this run."


def _halves(results: Results) -> list[tuple[str, list[TextTable], list[str], str]]:
    """(heading of the charts, tables, charts, what to say instead of them)."""
    speed = results.options["speed"]
    accuracy = results.options["accuracy"]
    return [
        ("Speed", speed_tables(results) if speed else [], speed_charts(results), NO_SPEED),
        ("Accuracy", accuracy_tables(results) if accuracy else [], accuracy_charts(results), NO_ACCURACY),
    ]


def _title(results: Results) -> str:
    return f"podx bench: {results.label}"


def markdown_report(results: Results) -> str:
    """The whole report as Markdown."""
    parts = [f"# {_title(results)}\n", *[f"- **{name}**: {said}" for name, said in environment_rows(results)], ""]
    for _, tables, _, instead in _halves(results):
        parts += [markdown_table(table) for table in tables] or [instead + "\n"]
    parts += ["## Engines\n", *[f"- `{name}`: {summary}" for name, summary in results.engines.items()]]
    if results.notes:
        parts += ["\n## Not complete\n", *[f"- {note}" for note in results.notes]]
    return "\n".join(parts) + "\n"


def html_report(results: Results) -> str:
    """The whole report as one page, charts inside."""
    body = [html_facts(environment_rows(results))]
    for _, tables, charts, instead in _halves(results):
        body += charts
        body += [html_table(table, OURS) for table in tables] or [f"<p>{instead}</p>"]
    body += ["<h2>Engines</h2>", html_facts(list(results.engines.items()))]
    if results.notes:
        body += ["<h2>Not complete</h2>", "<ul>", *[f"<li>{html.escape(note)}</li>" for note in results.notes], "</ul>"]
    return html_page(_title(results), body)


def write_report(results: Results, folder: Path) -> Path:
    """Write both files; returns the path of the HTML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_FILE).write_text(markdown_report(results), encoding="utf-8")
    page = folder / HTML_FILE
    page.write_text(html_report(results), encoding="utf-8")
    return page


def main(results: Annotated[Path, typer.Argument(help="A results.json that podx bench wrote.")]) -> None:
    """Draw the report of a run again."""
    typer.echo(write_report(Results.load(results), results.parent))


if __name__ == "__main__":
    run_command(main)
