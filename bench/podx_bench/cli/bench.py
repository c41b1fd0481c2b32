"""``podx bench BUNDLE`` on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from podx.flags import with_flags
from podx_bench.cli.subcommands import show, telling
from podx_bench.harness.records import RESULTS_FILE
from podx_bench.harness.terminal import wide_console
from podx_bench.pages.render import write_report
from podx_bench.report.bench import bench_report
from podx_bench.report.tables import short_tables
from podx_bench.run.options import BenchOptions
from podx_bench.run.run import BenchRun, Inputs
from podx_bench.run.variants import FORM, parse_variants

INTERRUPTED_STATUS = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""


@with_flags(options=BenchOptions)
def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.json and the report.")],
    options: Mapping[str, Any],
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
    console = wide_console()
    with telling(console, "bench") as tell:
        run = BenchRun(inputs, out, BenchOptions(**options), tell, lambda text: console.print(text, markup=False))
        try:
            run.measure()
            interrupted = False
        except KeyboardInterrupt:
            run.interrupt()
            interrupted = True
    results, page = run.results, write_report(bench_report([run.results]), out)
    show(console, short_tables(results), results.notes, results=out / RESULTS_FILE, report=page)
    if interrupted:
        raise typer.Exit(INTERRUPTED_STATUS)
