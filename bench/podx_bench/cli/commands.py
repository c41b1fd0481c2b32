"""``podx bench BUNDLE`` and its sub-commands: accuracy, serving, scale, exactness."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from podx.errors import ConfigError
from podx.flags import with_flags
from podx_bench.accuracy.options import MODEL_FORM, PEER_FORM, AccuracyOptions, parse_model, parse_peer
from podx_bench.accuracy.records import ACCURACY_FILE
from podx_bench.accuracy.report import write_accuracy
from podx_bench.accuracy.run import run_accuracy
from podx_bench.accuracy.tables import all_tables
from podx_bench.exactness.measure import EXACTNESS_FILE, ExactnessOptions, exactness_table, run_exactness
from podx_bench.harness.records import BENCH_FILE
from podx_bench.harness.terminal import telling
from podx_bench.pages.render import rich_table, write_report
from podx_bench.pages.table import TextTable
from podx_bench.report.bench import bench_report
from podx_bench.report.tables import short_tables
from podx_bench.run.options import BenchOptions
from podx_bench.run.run import BenchRun, Inputs
from podx_bench.run.variants import FORM, parse_variants
from podx_bench.scale.records import SCALE_FILE, ScaleOptions
from podx_bench.scale.report import scale_table
from podx_bench.scale.run import run_scale
from podx_bench.serving.records import SERVING_FILE, ServingOptions
from podx_bench.serving.report import serving_report, serving_tables
from podx_bench.serving.run import run_serving

INTERRUPTED_STATUS = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""
ACCURACY_WIDTH = 190
"""Characters that the widest accuracy table takes with mean and deviation in each cell."""

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")]
Data = Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")]
Options = Mapping[str, Any]
"""What was given on the command line, see :func:`podx.flags.with_flags`."""


@with_flags(options=BenchOptions)
def bench(
    bundle: Bundle,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for results.json and the report.")],
    options: Options,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder the bundle was exported from; eager engines need it.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar=FORM,
            help="Another bundle of the same model, as of another precision, as engine podx-NAME; may be repeated.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Name of the run; default: dataset and ID scheme.")
    ] = None,
) -> None:
    """Benchmark a bundle against eager PyTorch: latency and accuracy of every engine on the same requests.

    Ctrl-C ends it early: results and report then hold what had been measured.
    """
    inputs = Inputs(bundle, data, checkpoint, label, parse_variants(variant or ()))
    with telling("bench") as (console, tell):
        run = BenchRun(inputs, out, BenchOptions(**options), tell, lambda text: console.print(text, markup=False))
        try:
            run.measure()
            interrupted = False
        except KeyboardInterrupt:
            run.interrupt()
            interrupted = True
    results, page = run.results, write_report(bench_report([run.results]), out)
    show(console, short_tables(results), results.notes, results=out / BENCH_FILE.name, report=page)
    if interrupted:
        raise typer.Exit(INTERRUPTED_STATUS)


@with_flags(options=AccuracyOptions)
def accuracy(
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {ACCURACY_FILE.name}, report, and measurements.")],
    options: Options,
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
    report_only: Annotated[
        bool, typer.Option("--report-only", help=f"Measure nothing: draw the report of OUT/{ACCURACY_FILE.name} again.")
    ] = False,
) -> None:
    """Accuracy of models beside the paper's figures and rows that learn nothing; a killed run goes on where it was."""
    if report_only and (models or peer or data):
        raise ConfigError(f"--report-only takes everything from OUT/{ACCURACY_FILE.name}: leave models and data out")
    chosen, peers = tuple(map(parse_model, models or ())), tuple(map(parse_peer, peer or ()))
    with telling("accuracy", ACCURACY_WIDTH) as (console, tell):
        if report_only:
            results = ACCURACY_FILE.read(out / ACCURACY_FILE.name)
        else:
            results = run_accuracy(chosen, peers, out, AccuracyOptions(**options), tell, data or ())
    report = write_accuracy(results, out)
    show(console, all_tables(results), results.notes, results=out / ACCURACY_FILE.name, report=report)


@with_flags(options=ServingOptions)
def serving(
    bundle: Bundle,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {SERVING_FILE.name} and its report.")],
    options: Options,
) -> None:
    """Put `podx serve` under load, beyond its capacity, through changes of its bundle, ends and nonsense.

    Exit status 1: a bound is not kept.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers end, too
    with telling("serving") as (console, tell):
        results = run_serving(bundle, data, out, ServingOptions(**options), tell)
    report = write_report(serving_report(results), out)
    show(console, serving_tables(results), results=out / SERVING_FILE.name, report=report)
    if not all(record.passed for record in results.records):
        raise typer.Exit(1)


@with_flags(options=ScaleOptions)
def scale(
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {SCALE_FILE.name}; catalogs lie there meanwhile.")],
    options: Options,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model whose graph is timed; it needs T5's vocabulary.")
    ] = None,
) -> None:
    """Measure what the size of the catalog costs: building, disk, loading, memory, and with a model its time."""
    with telling("scale") as (console, tell):
        results = run_scale(out, ScaleOptions(**options), checkpoint, tell)
    show(console, [scale_table(results)], results=out / SCALE_FILE.name)


@with_flags(options=ExactnessOptions)
def exactness(
    bundle: Bundle,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {EXACTNESS_FILE.name}.")],
    options: Options,
) -> None:
    """Measure how often answers are proven to be the model's best, against the width of the search."""
    with telling("exactness") as (console, tell):
        results = run_exactness(bundle, data, out, ExactnessOptions(**options), tell)
    show(console, [exactness_table(results.records)], results=out / EXACTNESS_FILE.name)


def show(console: Console, tables: Iterable[TextTable], notes: Iterable[str] = (), **files: Path) -> None:
    """Tables with their notes, notes of the run, and where the files lie."""
    for table in tables:
        console.print(rich_table(table))
        for note in table.notes:
            console.print(note, markup=False)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    for name, path in files.items():
        console.print(f"{name}: {path}", soft_wrap=True, markup=False)
