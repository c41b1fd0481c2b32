"""``podx study``: train and measure sweeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from podx_bench.harness.options import parse_numbers
from podx_bench.harness.terminal import counting, wide_console
from podx_bench.pages.render import rich_table
from podx_bench.pages.table import TextTable
from podx_bench.study.batching import run_batching
from podx_bench.study.batching_report import batching_tables, write_batching
from podx_bench.study.options import BatchingOptions, RunOptions
from podx_bench.study.record import STUDY_FILE
from podx_bench.study.report import sweep_tables, write_sweep
from podx_bench.study.run import run_sweep
from podx_bench.study.sweep import DEFAULT_HEADS, DEFAULT_K, Sweep, heads_sweep, inference_sweep, k_sweep

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Sweeps: train, measure and draw what is varied.")

_RUNS, _BATCHING = RunOptions(), BatchingOptions(memory_gb=1.0)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Dataset folder.")]
Extra = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- TRAIN-OPTIONS…]", help="After --: options of podx train for every training."),
]
Out = Annotated[Path, typer.Option("--out", help=f"Folder for {STUDY_FILE}, the report, and every finished run.")]
MinutesPerRun = Annotated[
    float | None, typer.Option("--minutes-per-run", help="The most that one training takes; equal for all values.")
]
BudgetMinutes = Annotated[
    float | None,
    typer.Option("--budget-minutes", help="Then no training goes on; the same command later does. Measuring is extra."),
]
Jobs = Annotated[int, typer.Option("--jobs", help="Trainings at a time; with cuda each has a GPU of its own.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda, of training and measuring.")]
Threads = Annotated[int, typer.Option("--threads", help="Threads of all trainings together; 0 = one per core.")]
Users = Annotated[int | None, typer.Option("--users", help="Test users, sequential recommendation; default: all.")]
TopnUsers = Annotated[int | None, typer.Option("--topn-users", help="Test users, top-N; default: all.")]
Records = Annotated[int | None, typer.Option("--explanation-records", help="Test records, explanations; default: all.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Requests a bundle runs at a time.")]
TimedUsers = Annotated[int, typer.Option("--timed-users", help="Users of the times; 0: no times.")]
Rounds = Annotated[int, typer.Option("--rounds", help="Turns of each bundle.")]
Seed = Annotated[int, typer.Option("--seed", help="Which test users come first; of training: -- --seed N.")]


def _options(given: dict[str, Any]) -> RunOptions:
    """The options that all sweeps share, from a command's arguments."""
    return RunOptions(**{name: given[name] for name in RunOptions.__dataclass_fields__})


def _sweep(sweep: Sweep, given: dict[str, Any]) -> None:
    options, out = _options(given), given["out"]
    with counting(wide_console()) as progress:
        results = run_sweep(sweep, given["data"], out, options, given["extra"] or (), progress)
    _show(sweep_tables(results), lambda: write_sweep(results, out), out)


def _show(tables: list[TextTable], write: Callable[[], Path], out: Path) -> None:
    console = wide_console()
    for table in tables:
        console.print(rich_table(table))
        for note in table.notes:
            console.print(note, markup=False)
    page = write()
    console.print(f"results: {out / STUDY_FILE}", soft_wrap=True, markup=False)
    console.print(f"report: {page}", soft_wrap=True, markup=False)


def numbers(text: str) -> tuple[int, ...]:
    """``--values``: whole numbers with commas between, ascending, each once."""
    return parse_numbers(text, "--values")


@app.command()
def k(
    data: Data,
    out: Out,
    extra: Extra = None,
    values: Annotated[str, typer.Option("--values", help="Numbers of prompt vectors.")] = ",".join(map(str, DEFAULT_K)),
    minutes_per_run: MinutesPerRun = None,
    budget_minutes: BudgetMinutes = None,
    jobs: Jobs = _RUNS.jobs,
    device: Device = _RUNS.device,
    threads: Threads = _RUNS.threads,
    users: Users = None,
    topn_users: TopnUsers = None,
    explanation_records: Records = None,
    batch_size: BatchSize = _RUNS.batch_size,
    timed_users: TimedUsers = _RUNS.timed_users,
    rounds: Rounds = _RUNS.rounds,
    seed: Seed = _RUNS.seed,
) -> None:
    """Accuracy and time against the number of prompt vectors K (the paper's Figure 4)."""
    given = dict(locals())
    _sweep(k_sweep(numbers(values)), given)


@app.command()
def heads(
    data: Data,
    out: Out,
    extra: Extra = None,
    values: Annotated[str, typer.Option("--values", help="Numbers of heads; 0: an MLP.")] = ",".join(
        map(str, DEFAULT_HEADS)
    ),
    without_prompts: Annotated[
        bool, typer.Option("--without-prompts/--heads-only", help="Also a model without the tasks' prompt vectors.")
    ] = True,
    minutes_per_run: MinutesPerRun = None,
    budget_minutes: BudgetMinutes = None,
    jobs: Jobs = _RUNS.jobs,
    device: Device = _RUNS.device,
    threads: Threads = _RUNS.threads,
    users: Users = None,
    topn_users: TopnUsers = None,
    explanation_records: Records = None,
    batch_size: BatchSize = _RUNS.batch_size,
    timed_users: TimedUsers = _RUNS.timed_users,
    rounds: Rounds = _RUNS.rounds,
    seed: Seed = _RUNS.seed,
) -> None:
    """PeaPOD: accuracy and time against the number of attention heads, and without the tasks' prompt vectors."""
    given = dict(locals())
    _sweep(heads_sweep(numbers(values), without_prompts), given)


@app.command()
def inference(
    data: Data,
    out: Out,
    extra: Extra = None,
    minutes_per_run: MinutesPerRun = None,
    budget_minutes: BudgetMinutes = None,
    jobs: Jobs = _RUNS.jobs,
    device: Device = _RUNS.device,
    threads: Threads = _RUNS.threads,
    users: Users = None,
    topn_users: TopnUsers = None,
    explanation_records: Records = None,
    batch_size: BatchSize = _RUNS.batch_size,
    timed_users: TimedUsers = _RUNS.timed_users,
    rounds: Rounds = _RUNS.rounds,
    seed: Seed = _RUNS.seed,
) -> None:
    """One training with the discrete template kept at inference and dropped (the paper's Table 6)."""
    given = dict(locals())
    _sweep(inference_sweep(), given)


@app.command()
def batching(
    data: Data,
    out: Out,
    memory_gb: Annotated[float, typer.Option("--memory-gb", help="The most memory training may take, 10^9 bytes.")],
    extra: Extra = None,
    closeness: Annotated[
        float, typer.Option("--closeness", help="Find the largest batch to within this share of itself.")
    ] = _BATCHING.closeness,
    updates: Annotated[int, typer.Option("--updates", help="Updates timed in each round.")] = _BATCHING.updates,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of both ways.")] = _BATCHING.rounds,
    full_epoch: Annotated[
        bool, typer.Option("--full-epoch", help="Time a whole epoch of both ways, once, in place of --updates.")
    ] = False,
    budget_minutes: Annotated[
        float | None, typer.Option("--budget-minutes", help="Then nothing more is measured; a later call goes on.")
    ] = None,
    device: Device = _BATCHING.device,
    threads: Threads = _BATCHING.threads,
) -> None:
    """Task-alternated against sample-mixed training at the largest batch that memory allows (the paper's Table 5)."""
    given = dict(locals())
    options = BatchingOptions(**{name: given[name] for name in BatchingOptions.__dataclass_fields__})
    with counting(wide_console()) as progress:
        results = run_batching(data, out, options, extra or (), progress)
    _show(batching_tables(results), lambda: write_batching(results, out), out)
