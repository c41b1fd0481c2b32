"""``podx bench-service`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from podx.errors import ConfigError
from podx.text.templates import parse_tasks
from podx_bench.harness.options import parse_numbers
from podx_bench.harness.terminal import TABLE_WIDTH, plain_lines
from podx_bench.pages.render import rich_table
from podx_bench.service import SERVICE_FILE, ServiceOptions
from podx_bench.service_report import service_table, write_service_page
from podx_bench.service_run import run_service

_DEFAULTS = ServiceOptions()

app = typer.Typer(add_completion=False)


@app.command()
def bench_service(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")],
    data: Annotated[Path, typer.Option("--data", help="Dataset folder that the model was trained on.")],
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {SERVICE_FILE} and its page.")],
    clients: Annotated[str, typer.Option("--clients", help="Numbers of threads that ask at the same time.")] = ",".join(
        map(str, _DEFAULTS.clients)
    ),
    requests: Annotated[int, typer.Option("--requests", help="Requests of each turn.")] = _DEFAULTS.requests,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each way of asking.")] = _DEFAULTS.rounds,
    threads: Annotated[int, typer.Option("--threads", help="Threads inside an operator; 0 = one per core.")] = 0,
    max_batch: Annotated[
        int, typer.Option("--max-batch", help="Most requests that are merged; also the size of full batches.")
    ] = _DEFAULTS.max_batch,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", help="Longest pause of the batcher after a batch.")
    ] = _DEFAULTS.max_wait_ms,
    task: Annotated[str, typer.Option("--task", help="sequential or topn.")] = _DEFAULTS.task.value,
    beams: Annotated[int, typer.Option("--beams", help="Width of the item search.")] = _DEFAULTS.beams,
    k: Annotated[int, typer.Option("-k", "--count", help="Answers per request.")] = _DEFAULTS.k,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = _DEFAULTS.device,
    direct: Annotated[
        bool, typer.Option("--direct/--no-direct", help="Measure calls without the batcher, too.")
    ] = _DEFAULTS.direct,
    check: Annotated[
        int, typer.Option("--check", help="Push so many requests through the batcher and compare every answer.")
    ] = _DEFAULTS.check,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Difference of scores that the check takes for rounding.")
    ] = _DEFAULTS.tolerance,
    seed: Annotated[int, typer.Option("--seed", help="Which users are taken.")] = _DEFAULTS.seed,
) -> None:
    """Measure throughput and latency of a bundle against the number of clients that ask at the same time."""
    tasks = parse_tasks(task)
    if len(tasks) != 1:
        raise ConfigError(f"--task takes one task, not {task!r}: run the command once for each")
    options = ServiceOptions(
        clients=parse_numbers(clients, "--clients"),
        requests=requests,
        rounds=rounds,
        threads=threads,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        task=tasks[0],
        beams=beams,
        k=k,
        device=device,
        direct=direct,
        check=check,
        tolerance=tolerance,
        seed=seed,
    )
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    with console.status("bench-service") as status:
        tell = status.update if console.is_terminal else plain_lines()
        results = run_service(bundle, data, out, options, tell)
    table = service_table(results)
    console.print(rich_table(table))
    for note in table.notes:
        console.print(note, markup=False)
    page = write_service_page(results, out)
    console.print(f"results: {out / SERVICE_FILE}", soft_wrap=True, markup=False)
    console.print(f"page: {page}", soft_wrap=True, markup=False)
