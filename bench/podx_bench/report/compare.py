"""Several runs side by side: ``python -m podx_bench.report.compare A/results.json B/results.json … --out DIR``.

Runs with the same label, as of several seeds, are put together: mean ± standard deviation. The page has the charts of
the first run of each label, and, with ``--service`` and ``--scale``, what those benches measured.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS, Task
from podx_bench.harness.command import run_command
from podx_bench.harness.records import AccuracyRecord, Results, SpeedRecord, StreamRecord
from podx_bench.pages.render import html_facts, html_page
from podx_bench.pages.table import MILLISECONDS, NONE, NOT_MEASURED, TextTable
from podx_bench.report.goals import goals_table, has_ratios
from podx_bench.report.report import HTML_FILE, MARKDOWN_FILE
from podx_bench.report.sections import Section, extra_sections, html_sections, markdown_sections, results_sections
from podx_bench.report.tables import RANKING_COLUMNS, TEXT_COLUMNS

TITLE = "podx bench: runs compared"
Groups = Mapping[str, Sequence[Results]]


def grouped(runs: Sequence[Results]) -> dict[str, list[Results]]:
    """Runs by label and source length, in the order in which these first come."""
    groups: dict[str, list[Results]] = {}
    for run in runs:
        length = run.options.get("source_length")
        groups.setdefault(run.label if length is None else f"{run.label}, source {length}", []).append(run)
    return groups


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean, with the sample standard deviation where there are several values."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _accuracy_cells(records: Sequence[AccuracyRecord], columns: Sequence[str], digits: int) -> list[str]:
    if not records:
        return [NOT_MEASURED, *[NONE] * len(columns)]
    users = sorted({record.users for record in records})
    metrics = [_spread([record.metrics[key] for record in records], digits) for key in columns]
    return [" / ".join(f"{count:,}" for count in users), *metrics]


def _ranked_in(groups: Groups, task: Task) -> Groups:
    """The groups that measured accuracy on a task."""
    return {
        label: runs
        for label, runs in groups.items()
        if any(record.task == task for run in runs for record in run.accuracy)
    }


def accuracy_table(groups: Groups, task: Task) -> TextTable | None:
    """Every engine's accuracy on a task, the groups beneath one another; None: nobody measured it."""
    text, groups = task is Task.EXPLANATION, _ranked_in(groups, task)
    columns = TEXT_COLUMNS if text else RANKING_COLUMNS
    engines = _engines(groups, [r for runs in groups.values() for run in runs for r in run.accuracy if r.task == task])
    if not engines:
        return None
    rows = []
    for engine in engines:
        for label, runs in groups.items():
            if not _asked(runs, engine):
                continue
            found = [r for run in runs for r in run.accuracy if (r.task, r.engine) == (task, engine)]
            cells = _accuracy_cells(found, [key for key, _ in columns], 3 if text else 4)
            rows.append((engine, label, str(len(found)), *cells))
    header = ("engine", "run", "runs", "users", *(title for _, title in columns))
    return TextTable(f"Accuracy, {task}", header, tuple(rows), ("Several runs: mean ± standard deviation.",))


def overview_table(groups: Groups, task: Task) -> TextTable | None:
    """HR@10 / NDCG@10 of every engine on a ranking task, a column per group; None: nobody measured it."""
    groups = _ranked_in(groups, task)
    records = [r for runs in groups.values() for run in runs for r in run.accuracy if r.task == task]
    if task is Task.EXPLANATION or not records:
        return None
    rows = []
    for engine in _engines(groups, records):
        cells = [
            _overview_cell([r for run in runs for r in run.accuracy if (r.task, r.engine) == (task, engine)])
            for runs in groups.values()
        ]
        rows.append((engine, *cells))
    header = ("engine", *groups)
    return TextTable(f"Overview, {task}: HR@10 / NDCG@10", header, tuple(rows), ("Users and runs: below.",))


def _overview_cell(records: Sequence[AccuracyRecord]) -> str:
    if not records:
        return NOT_MEASURED
    return " / ".join(_spread([record.metrics[key] for record in records], 4) for key in ("hr_10", "ndcg_10"))


def speed_table(groups: Groups, task: Task) -> TextTable | None:
    """Every engine's time per user, and how many times as fast as the baselines it is."""
    records = [r for runs in groups.values() for run in runs for r in run.speed if r.task == task]
    engines = _engines(groups, records)
    if not engines:
        return None
    rows = []
    for size in sorted({record.batch_size for record in records}):
        for engine in engines:
            for label, runs in groups.items():
                timed = [r for run in runs for r in run.speed if (r.task, r.batch_size) == (task, size)]
                if not timed or not _asked(runs, engine):
                    continue
                found = [record for record in timed if record.engine == engine]
                rows.append((engine, label, str(size), str(len(found)), *_speed_cells(found)))
    header = ("engine", "run", "batch", "runs", "ms/user", "× encode-once", "× as-published")
    return TextTable(f"Speed, {task}", header, tuple(rows), ("Only the ratios compare between runs.",))


def stream_table(groups: Groups, task: Task) -> TextTable | None:
    """Every engine's rate where it got all users in one call."""
    records = [r for runs in groups.values() for run in runs for r in run.stream if r.task == task]
    engines = _engines(groups, records)
    if not engines:
        return None
    rows = []
    for engine in engines:
        for label, runs in groups.items():
            found = [r for run in runs for r in run.stream if (r.task, r.engine) == (task, engine)]
            if found:
                users = " / ".join(f"{count:,}" for count in sorted({record.users for record in found}))
                rows.append((engine, label, users, str(len(found)), *_speed_cells(found)))
    header = ("engine", "run", "users", "runs", "ms/user", "× encode-once", "× as-published")
    return TextTable(f"All users in one call, {task}", header, tuple(rows), ("Only the ratios compare between runs.",))


def _speed_cells(records: Sequence[SpeedRecord] | Sequence[StreamRecord]) -> list[str]:
    if not records:
        return [NOT_MEASURED, NONE, NONE]
    cells = [_spread([MILLISECONDS / record.users_per_s for record in records], 2)]
    for key in ("ratio_vs_encode_once", "ratio_vs_as_published"):
        ratios = [value for record in records if (value := getattr(record, key)) is not None]
        cells.append(_spread(ratios, 2) if ratios else NONE)
    return cells


def _asked(runs: Sequence[Results], engine: str) -> bool:
    """Whether an engine took part in any of the runs."""
    return any(engine in run.engines for run in runs)


def _engines(groups: Groups, records: Sequence[AccuracyRecord | SpeedRecord | StreamRecord]) -> list[str]:
    """Engines that have a record, in the order of the runs: rows that learn nothing last, as the runs list them."""
    known = [name for runs in groups.values() for run in runs for name in run.engines]
    having = {record.engine for record in records}
    return [name for name in dict.fromkeys(known) if name in having]


def comparison(runs: Sequence[Results]) -> list[TextTable]:
    """All tables that the runs can fill.

    Raises:
        ConfigError: there is nothing to compare.
    """
    groups = grouped(runs)
    makers = (overview_table, accuracy_table, speed_table, stream_table)
    filled = [table for task in ALL_TASKS for make in makers if (table := make(groups, task)) is not None]
    if not filled:
        raise ConfigError("the runs hold neither speed nor accuracy records: give results of finished runs")
    return ([goals_table(runs)] if any(has_ratios(run) for run in runs) else []) + filled


def run_facts(runs: Sequence[Results]) -> list[tuple[str, str]]:
    """Of each group: data and machine of its first run."""
    return [
        (
            label,
            f"{len(own)} run(s); {own[0].dataset['users']:,} users, {own[0].dataset['items']:,} items, "
            f"{own[0].dataset['scheme']} ids; {own[0].environment['cpu']}, {own[0].environment['threads']} threads, "
            f"{own[0].environment['device']}",
        )
        for label, own in grouped(runs).items()
    ]


def write_comparison(runs: Sequence[Results], folder: Path, extra: Sequence[Section] = ()) -> Path:
    """Write ``report.md`` and ``report.html``; returns the path of the HTML."""
    sections, facts = [Section(tables=tuple(comparison(runs))), *extra], run_facts(runs)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {TITLE}\n", *[f"- **{label}**: {said}" for label, said in facts], "", *markdown_sections(sections)]
    (folder / MARKDOWN_FILE).write_text("\n".join(lines), encoding="utf-8")
    body = [html_facts(facts), *html_sections(sections)]
    for label, own in grouped(runs).items():
        charts = [chart for section in results_sections(own[0]) for chart in section.charts]
        body += [f"<h2>Charts, {html.escape(label)}</h2>", *charts] if charts else []
    page = folder / HTML_FILE
    page.write_text(html_page(TITLE, body), encoding="utf-8")
    return page


def main(
    results: Annotated[list[Path], typer.Argument(help="Two or more results.json that podx bench wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the report.")],
    service: Annotated[Path | None, typer.Option("--service", help="A service.json to put in.")] = None,
    scale: Annotated[Path | None, typer.Option("--scale", help="A scale.json to put in.")] = None,
) -> None:
    """Put several runs into one report."""
    typer.echo(write_comparison([Results.load(path) for path in results], out, extra_sections(service, scale)))


if __name__ == "__main__":
    run_command(main)
