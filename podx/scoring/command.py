"""``podx score``: lists for all users, from Parquet to Parquet, on all cores or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from podx.cli import BundlePath, LoadFlags, ReadingFlags, reading_arguments
from podx.flags import with_flags
from podx.scoring.run import ScoreOptions, score

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Rate(ProgressColumn):
    """Users per second."""

    def render(self, task: Task) -> Text:
        """What it is now."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} users/s")


@with_flags(options=ScoreOptions, reading=ReadingFlags, load=LoadFlags)
def command(
    bundle: BundlePath,
    out: Annotated[Path, typer.Option("--out", help="Folder to write, of Parquet files that appear one by one.")],
    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            help="Parquet file or folder: user, and where wanted history, exclude, allow; default: all of the bundle.",
        ),
    ] = None,
    options: Any = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an earlier run left in --out.")] = False,
    reading: Any = None,
    load: Any = None,
) -> None:
    """Lists for all users, from Parquet to Parquet."""
    chosen, console = ScoreOptions(**options), Console(stderr=True)
    columns = TextColumn("users"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("users", total=None)

    def progress(finished: int, of: int) -> None:
        bar.update(task, completed=finished, total=of)

    try:
        with bar:
            loading = {**load, **reading_arguments(reading)}
            done = score(bundle, out, users, chosen, resume=resume, progress=progress, **loading)
    except KeyboardInterrupt:
        typer.echo(f"ended: the parts in {out} are whole, --resume goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    failed = f", {done.errors:,} of them with an error in place of a list" if done.errors else ""
    rate = f"; {done.made / done.seconds:,.0f} users/s with loading" if done.made else ""
    typer.echo(f"{out}: {done.users:,} users{failed}{rate}")
