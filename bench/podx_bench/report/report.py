"""``report.md`` and ``report.html`` from ``results.json`` and nothing else.

``python -m podx_bench.report results.json`` draws them again beside the file; ``--service service.json`` and ``--scale
scale.json`` add what ``podx bench-service`` and ``podx bench-scale`` measured.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from podx_bench.harness.command import run_command
from podx_bench.harness.records import Results
from podx_bench.pages.render import html_facts, html_page
from podx_bench.report.about import environment_rows
from podx_bench.report.sections import Section, extra_sections, html_sections, markdown_sections, results_sections

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"


def _title(results: Results) -> str:
    return f"podx bench: {results.label}"


def markdown_report(results: Results, extra: Sequence[Section] = ()) -> str:
    """The whole report as Markdown."""
    parts = [f"# {_title(results)}\n", *[f"- **{name}**: {said}" for name, said in environment_rows(results)], ""]
    parts += markdown_sections([*results_sections(results), *extra])
    parts += ["## Engines\n", *[f"- `{name}`: {summary}" for name, summary in results.engines.items()]]
    if results.notes:
        parts += ["\n## Notes\n", *[f"- {note}" for note in results.notes]]
    return "\n".join(parts) + "\n"


def html_report(results: Results, extra: Sequence[Section] = ()) -> str:
    """The whole report as one page, charts inside."""
    body = [html_facts(environment_rows(results)), *html_sections([*results_sections(results), *extra])]
    body += ["<h2>Engines</h2>", html_facts(list(results.engines.items()))]
    if results.notes:
        body += ["<h2>Notes</h2>", "<ul>", *[f"<li>{html.escape(note)}</li>" for note in results.notes], "</ul>"]
    return html_page(_title(results), body)


def write_report(results: Results, folder: Path, extra: Sequence[Section] = ()) -> Path:
    """Write both files; returns the path of the HTML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_FILE).write_text(markdown_report(results, extra), encoding="utf-8")
    page = folder / HTML_FILE
    page.write_text(html_report(results, extra), encoding="utf-8")
    return page


def main(
    results: Annotated[Path, typer.Argument(help="A results.json that podx bench wrote.")],
    service: Annotated[Path | None, typer.Option("--service", help="A service.json to put in.")] = None,
    scale: Annotated[Path | None, typer.Option("--scale", help="A scale.json to put in.")] = None,
) -> None:
    """Draw the report of a run again."""
    typer.echo(write_report(Results.load(results), results.parent, extra_sections(service, scale)))


if __name__ == "__main__":
    run_command(main)
