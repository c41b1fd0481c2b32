"""``report.html``, ``report.md`` and the charts as files, from ``accuracy.json`` and nothing else."""

from __future__ import annotations

import html
from pathlib import Path

from podx_bench.accuracy_report.charts import study_figures
from podx_bench.accuracy_report.facts_tables import facts_tables
from podx_bench.accuracy_report.records import Study
from podx_bench.accuracy_report.rows import PODX
from podx_bench.accuracy_report.tables import accuracy_tables
from podx_bench.harness.record_file import PARTIAL_SUFFIX
from podx_bench.pages.drawing import svg
from podx_bench.pages.render import html_facts, html_page, html_table, markdown_table
from podx_bench.pages.table import TextTable

TITLE = "podx bench accuracy"
HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"
PNG_DPI = 200


def all_tables(study: Study) -> list[TextTable]:
    """Every table that the study can fill, in the order of the report."""
    return [*accuracy_tables(study), *facts_tables(study)]


def environments(study: Study) -> list[tuple[str, str]]:
    """The machines that measured, each once with the models it measured, and how."""
    found: dict[str, list[str]] = {}
    for record in study.models:
        own, options = record.environment, record.options
        packages = ", ".join(f"{name} {version}" for name, version in own.get("packages", {}).items())
        said = "; ".join(
            (
                f"{own['cpu']}, {own['usable_cores']} usable cores, {own['memory_gb']} GB",
                f"graphics: {own['gpu'] or 'none'}",
                f"{options['device']}, {options['threads']} threads, batch size {options['batch_size']}, "
                f"{options['beams']} beams",
                f"podx {own['podx']} ({own['podx_commit'] or 'no commit known'}), {packages}",
            )
        )
        labels = found.setdefault(said, [])
        if record.label not in labels:
            labels.append(record.label)
    return [(", ".join(labels), said) for said, labels in found.items()]


def write_study(study: Study, folder: Path) -> Path:
    """Write report and charts; returns the path of the page."""
    figures = study_figures(study)
    drawings = {name: svg(figure) for name, figure in figures.items()}
    for name, figure in figures.items():
        _write(folder / f"{name}.svg", drawings[name])
        partial = folder / f"{name}.png{PARTIAL_SUFFIX}"
        figure.savefig(partial, format="png", dpi=PNG_DPI, metadata={"Software": None})
        partial.replace(folder / f"{name}.png")
    _write(folder / MARKDOWN_FILE, markdown_study(study))
    page = folder / HTML_FILE
    _write(page, html_study(study, list(drawings.values())))
    return page


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def markdown_study(study: Study) -> str:
    """The report as Markdown, without charts."""
    parts = [f"# {TITLE}\n", *[f"- **{name}**: {said}" for name, said in environments(study)], ""]
    parts += [markdown_table(table) for table in all_tables(study)]
    if study.notes:
        parts += ["## Notes\n", *[f"- {note}" for note in study.notes]]
    return "\n".join(parts) + "\n"


def html_study(study: Study, drawings: list[str]) -> str:
    """The report as one page, charts inside."""
    body = [html_facts(environments(study)), *drawings]
    body += [html_table(table, PODX) for table in all_tables(study)]
    if study.notes:
        body += ["<h2>Notes</h2>", "<ul>", *[f"<li>{html.escape(note)}</li>" for note in study.notes], "</ul>"]
    return html_page(TITLE, body)
