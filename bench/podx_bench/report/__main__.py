"""Reports are drawn again from the files of results and nothing else.

``python -m podx_bench.report A/results.json`` writes the run's report beside it; several files are compared in one
report, in ``--out``. ``--ratios`` prints how many times as fast podx is, as Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podx.errors import ConfigError
from podx_bench.harness.records import BENCH_FILE
from podx_bench.harness.terminal import run_command
from podx_bench.pages.render import markdown_table, write_report
from podx_bench.report.bench import bench_report, scale_sections
from podx_bench.report.ratios import DEFAULT_AGAINST, ratio_table


def main(
    results: Annotated[list[Path], typer.Argument(help="One or more results.json that podx bench wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report; default for one file: its own.")
    ] = None,
    scale: Annotated[Path | None, typer.Option("--scale", help="File of podx bench scale to put in.")] = None,
    ratios: Annotated[bool, typer.Option("--ratios", help="Print the table of ratios and write nothing.")] = False,
    against: Annotated[str, typer.Option("--against", help="Engines of that table.")] = ",".join(DEFAULT_AGAINST),
) -> None:
    """Draw the report of a run again, or put several runs into one report."""
    runs = [BENCH_FILE.read(path) for path in results]
    if ratios:
        names = [name.strip() for name in against.split(",") if name.strip()]
        typer.echo(markdown_table(ratio_table(runs, names)))
        return
    if len(runs) > 1 and out is None:
        raise ConfigError("several runs need --out: the folder for their report")
    typer.echo(write_report(bench_report(runs, scale_sections(scale)), out or results[0].parent))


if __name__ == "__main__":
    run_command(main)
