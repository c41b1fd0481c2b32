"""``podx bench accuracy`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from podx.errors import ConfigError
from podx.text.templates import parse_tasks
from podx_bench.accuracy_report.options import (
    MODEL_FORM,
    PEER_FORM,
    StudyOptions,
    parse_models,
    parse_peer,
)
from podx_bench.accuracy_report.records import STUDY_FILE, Study
from podx_bench.accuracy_report.report import all_tables, write_study
from podx_bench.accuracy_report.run import run_study
from podx_bench.harness.terminal import counting, wide_console
from podx_bench.pages.render import rich_table

LINE_WIDTH = 190
"""Characters that the widest table takes with mean and deviation in each cell."""

_DEFAULTS = StudyOptions()


def accuracy_command(
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {STUDY_FILE}, the report, and all measurements.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL…", help=f"{MODEL_FORM}; a label given again with another bundle: another seed."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar=PEER_FORM, help="Lists of another method; may be repeated.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="One more dataset whose leaks and rows that learn nothing to show; may repeat."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Comma-separated: sequential,topn,explanation. Default: all there are."),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", help="Test users, sequential recommendation; default: all.")
    ] = None,
    topn_users: Annotated[int | None, typer.Option("--topn-users", help="Test users, top-N; default: all.")] = None,
    explanation_records: Annotated[
        int | None, typer.Option("--explanation-records", help="Test records, explanations; default: all.")
    ] = None,
    unconstrained_users: Annotated[
        int,
        typer.Option("--unconstrained-users", help="Users whose lists are also searched for freely, which is slow."),
    ] = _DEFAULTS.unconstrained_users,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = _DEFAULTS.device,
    threads: Annotated[int, typer.Option("--threads", help="Threads of a model's process; 0 = one per core.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Requests a model runs at a time.")
    ] = _DEFAULTS.batch_size,
    beams: Annotated[int, typer.Option("--beams", help="Width of the item search.")] = _DEFAULTS.beams,
    seed: Annotated[int, typer.Option("--seed", help="Which users are taken.")] = _DEFAULTS.seed,
    timed_users: Annotated[
        int, typer.Option("--timed-users", help="Users that all models are timed on, in turns; 0: none.")
    ] = _DEFAULTS.timed_users,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each model.")] = _DEFAULTS.rounds,
    report_only: Annotated[
        bool, typer.Option("--report-only", help=f"Measure nothing: draw the report of OUT/{STUDY_FILE} again.")
    ] = False,
) -> None:
    """Accuracy of models beside the paper's figures and rows that learn nothing; a killed run goes on where it was."""
    console = wide_console(LINE_WIDTH)
    if report_only:
        if models or peer or data:
            raise ConfigError(f"--report-only takes everything from OUT/{STUDY_FILE}: leave models and data out")
        _print(console, Study.load(out / STUDY_FILE), out)
        return
    options = StudyOptions(
        tasks=None if tasks is None else parse_tasks(tasks),
        users=users,
        topn_users=topn_users,
        explanation_records=explanation_records,
        unconstrained_users=unconstrained_users,
        device=device,
        threads=threads,
        batch_size=batch_size,
        beams=beams,
        seed=seed,
        timed_users=timed_users,
        rounds=rounds,
    )
    chosen, peers = parse_models(models or ()), tuple(parse_peer(text) for text in peer or ())
    with counting(console) as progress:
        study = run_study(chosen, peers, out, options, progress, data or ())
    _print(console, study, out)


def _print(console: Console, study: Study, out: Path) -> None:
    """The tables, then where the files are."""
    for table in all_tables(study):
        console.print(rich_table(table))
        for note in table.notes:
            console.print(note, markup=False)
    for note in study.notes:
        console.print(f"note: {note}", markup=False)
    page = write_study(study, out)
    console.print(f"results: {out / STUDY_FILE}", soft_wrap=True, markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)
