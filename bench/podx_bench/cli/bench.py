"""``podx bench`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from podx.text.templates import parse_tasks
from podx_bench.accuracy_report.cli import accuracy_command
from podx_bench.cli.default_command import group_of
from podx_bench.engines import DEFAULT_ENGINES, ENGINES
from podx_bench.harness.options import parse_numbers
from podx_bench.harness.records import RESULTS_FILE, Results
from podx_bench.harness.terminal import TABLE_WIDTH, TELL_SECONDS, plain_lines
from podx_bench.pages.render import rich_table
from podx_bench.report.report import write_report
from podx_bench.report.sections import all_tables
from podx_bench.run.options import BenchOptions
from podx_bench.run.run import Inputs, run_bench
from podx_bench.run.variants import FORM, parse_variants

SPARE_COLUMNS = ("p99 ms", "users/s", "peak MB", "load s", "calls", "HR@1", "NDCG@5")
"""What a narrower terminal does not show; the report has it."""

_DEFAULTS = BenchOptions()

__all__ = ["TABLE_WIDTH", "TELL_SECONDS", "app", "bench", "plain_lines"]


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.json and the report.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder the bundle was exported from; eager engines need it.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Comma-separated: sequential,topn,explanation. Default: all there are."),
    ] = None,
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="Requests per timed call.")] = ",".join(
        map(str, _DEFAULTS.batch_sizes)
    ),
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            help=f"Comma-separated: {', '.join(ENGINES)}; or module:attribute. Default: {','.join(DEFAULT_ENGINES)}.",
        ),
    ] = None,
    users: Annotated[int | None, typer.Option("--users", help="Test users that take part; default: all.")] = None,
    speed_users: Annotated[
        int, typer.Option("--speed-users", help="Of these, users that the timed runs go through.")
    ] = _DEFAULTS.speed_users,
    accuracy_users: Annotated[
        int | None, typer.Option("--accuracy-users", help="Of these, users of the accuracy runs; default: all of them.")
    ] = None,
    eager_users: Annotated[
        int, typer.Option("--eager-users", help="The most users for accuracy of the slow engines.")
    ] = _DEFAULTS.eager_users,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = _DEFAULTS.device,
    threads: Annotated[int, typer.Option("--threads", help="Threads of every engine; 0 = one per core.")] = 0,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of every engine.")] = _DEFAULTS.rounds,
    beams: Annotated[int, typer.Option("--beams", help="Width of the item search.")] = _DEFAULTS.beams,
    k: Annotated[int, typer.Option("-k", "--count", help="Answers per request.")] = _DEFAULTS.k,
    seed: Annotated[int, typer.Option("--seed", help="Which users are taken.")] = _DEFAULTS.seed,
    spin: Annotated[
        bool, typer.Option("--spin/--no-spin", help="Let waiting threads of every engine spin.")
    ] = _DEFAULTS.spin,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", help="Stop measuring after this long.")] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure latency.")] = True,
    accuracy: Annotated[bool, typer.Option("--accuracy/--no-accuracy", help="Measure accuracy.")] = True,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar=FORM,
            help="Another bundle of the same model, as of another precision, as engine podx-NAME; may be repeated.",
        ),
    ] = None,
    source_length: Annotated[
        int | None,
        typer.Option("--source-length", help="Time inputs of so many tokens, prompts not counted; default: all."),
    ] = None,
    stream_users: Annotated[
        int | None,
        typer.Option("--stream-users", help="Users that each engine also gets in one call, in an order of its own."),
    ] = None,
    stream_batch: Annotated[
        int, typer.Option("--stream-batch", help="How many of them an engine runs at a time.")
    ] = _DEFAULTS.stream_batch,
    stream_rounds: Annotated[
        int, typer.Option("--stream-rounds", help="How often each engine goes through them.")
    ] = _DEFAULTS.stream_rounds,
    roofline: Annotated[
        bool, typer.Option("--roofline/--no-roofline", help="Measure what the machine's arithmetic allows at best.")
    ] = True,
    label: Annotated[
        str | None, typer.Option("--label", help="Name of the run; default: dataset and ID scheme.")
    ] = None,
) -> None:
    """Benchmark a bundle against eager PyTorch: latency and accuracy of every engine on the same requests."""
    options = BenchOptions(
        tasks=None if tasks is None else parse_tasks(tasks),
        batch_sizes=parse_numbers(batch_sizes, "--batch-sizes"),
        engines=None if engines is None else tuple(name.strip() for name in engines.split(",") if name.strip()),
        users=users,
        speed_users=speed_users,
        accuracy_users=accuracy_users,
        eager_users=eager_users,
        device=device,
        threads=threads,
        rounds=rounds,
        beams=beams,
        k=k,
        seed=seed,
        spin=spin,
        max_minutes=max_minutes,
        speed=speed,
        accuracy=accuracy,
        source_length=source_length,
        stream_users=stream_users,
        stream_batch=stream_batch,
        stream_rounds=stream_rounds,
        roofline=roofline,
    )
    inputs = Inputs(bundle, data, checkpoint, label, parse_variants(variant or ()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    with console.status("bench") as status:
        tell = status.update if console.is_terminal else plain_lines()
        results = run_bench(inputs, out, options, tell)
    _print(console, results, out)


def _print(console: Console, results: Results, out: Path) -> None:
    """The tables, then where the files are."""
    leave_out = SPARE_COLUMNS if console.width < TABLE_WIDTH else ()
    for table in all_tables(results):
        console.print(rich_table(table, leave_out))
    for note in results.notes:
        console.print(f"note: {note}", markup=False)
    page = write_report(results, out)
    console.print(f"results: {out / RESULTS_FILE}", soft_wrap=True, markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)


app = group_of(bench, {"accuracy": accuracy_command})
