"""``podx bench-scale`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from podx.errors import ConfigError
from podx_bench.harness.terminal import TABLE_WIDTH, plain_lines
from podx_bench.pages.render import rich_table
from podx_bench.scale import SCALE_FILE, ScaleOptions
from podx_bench.scale_report import scale_table
from podx_bench.scale_run import run_scale

_DEFAULTS = ScaleOptions()

app = typer.Typer(add_completion=False)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Numbers such as ``1e4,100000``, ascending.

    Raises:
        ConfigError: a part is no whole number.
    """
    try:
        sizes = [float(part) for part in text.split(",")]
        if any(size != int(size) for size in sizes):
            raise ValueError("not a whole number")
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--items takes numbers with commas between, as 1e4,1e5; not {text!r} ({error})") from error
    return tuple(sorted({int(size) for size in sizes}))


@app.command()
def bench_scale(
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {SCALE_FILE}; catalogues lie there meanwhile.")],
    items: Annotated[str, typer.Option("--items", help="Sizes of the synthetic catalogues.")] = ",".join(
        f"{size:.0e}".replace("e+0", "e") for size in _DEFAULTS.items
    ),
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model whose graph is timed, too; it needs T5's vocabulary.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch-size", help="Users of a call.")] = _DEFAULTS.batch,
    source: Annotated[int, typer.Option("--source-length", help="Tokens of an input.")] = _DEFAULTS.source,
    beams: Annotated[int, typer.Option("--beams", help="Width of the item search.")] = _DEFAULTS.beams,
    k: Annotated[int, typer.Option("-k", "--count", help="Answers per user.")] = _DEFAULTS.k,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each catalogue.")] = _DEFAULTS.rounds,
    calls: Annotated[int, typer.Option("--calls", help="Calls of a turn.")] = _DEFAULTS.calls,
    threads: Annotated[int, typer.Option("--threads", help="Threads inside an operator; 0 = one per core.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of catalogues and inputs.")] = _DEFAULTS.seed,
    precision: Annotated[str, typer.Option("--precision", help="Of the graph: fp32 or int8.")] = _DEFAULTS.precision,
) -> None:
    """Measure what the size of the catalogue costs: building, disk, loading, memory, and time of a decoding step."""
    options = ScaleOptions(
        items=parse_sizes(items),
        batch=batch,
        source=source,
        beams=beams,
        k=k,
        rounds=rounds,
        calls=calls,
        threads=threads,
        seed=seed,
        precision=precision,
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    with console.status("bench-scale") as status:
        tell = status.update if console.is_terminal else plain_lines()
        results = run_scale(out, options, checkpoint, tell)
    table = scale_table(results)
    console.print(rich_table(table))
    for note in table.notes:
        console.print(note, markup=False)
    console.print(f"results: {out / SCALE_FILE}", soft_wrap=True, markup=False)
