"""``podx data``: prepare a dataset, make a synthetic one, look at one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from podx.bundle.manifest import file_sha256
from podx.flags import with_flags
from podx_train.cli.index import index_command
from podx_train.console import progress_bar
from podx_train.data.columns import ColumnNames
from podx_train.data.dataset import Dataset
from podx_train.data.interactions import Interactions
from podx_train.data.prepare import Prepared, PrepareOptions, prepare
from podx_train.data.readers import read_interactions
from podx_train.data.stats import DatasetStats, dataset_stats
from podx_train.data.synth import INTERACTIONS_FILE, SynthOptions, interactions_csv, synth_provenance

STAGES = 5  # steps that prepare() tells of
NOT_OF_SYNTH = ("seed", "min_interactions", "tie_shuffle", "negatives")
"""Options of preparing that a synthetic world needs none of, or has of its own."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Prepare, make and inspect datasets.")

OutOption = Annotated[Path, typer.Option("--out", help="Dataset folder to write.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the dataset folder if it is there.")]

app.command("index")(index_command)


@app.command("prepare")
@with_flags(options=PrepareOptions, columns=ColumnNames)
def prepare_command(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="CSV, Parquet, JSON lines (.gz) or S3-Rec .txt.")],
    out: OutOption,
    options: Mapping[str, Any],
    columns: Mapping[str, Any],
    force: ForceOption = False,
) -> None:
    """Make a dataset folder from interactions."""
    chosen, console = PrepareOptions(**options), Console()
    with progress_bar(visible=True) as progress:
        interactions = _read(source, ColumnNames(**columns), progress)
        provenance: dict[str, object] = {"name": source.name, "sha256": file_sha256(source)}
        prepared = _prepare(interactions, chosen, provenance, progress)
        prepared.dataset.save(out, force=force)
    _print_summary(console, prepared, len(interactions), out)


@app.command("synth")
@with_flags(world=SynthOptions, options=PrepareOptions, leave_out=NOT_OF_SYNTH)
def synth_command(
    out: OutOption,
    world: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    force: ForceOption = False,
) -> None:
    """Make a small synthetic world, its interactions file included."""
    made, chosen, console = SynthOptions(seed=seed, **world), PrepareOptions(seed=seed, **options), Console()
    with progress_bar(visible=True) as progress:
        text = interactions_csv(made)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / INTERACTIONS_FILE
            file.write_text(text, encoding="utf-8")
            interactions = _read(file, ColumnNames(), progress)
        prepared = _prepare(interactions, chosen, synth_provenance(made), progress)
        prepared.dataset.save(out, force=force, attachments={INTERACTIONS_FILE: text})
    _print_summary(console, prepared, len(interactions), out)


@app.command("stats")
def stats_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a dataset's figures and how much its numbers leak."""
    stats = dataset_stats(Dataset.load(data))
    if as_json:
        typer.echo(json.dumps(asdict(stats), indent=2))
    else:
        Console().print(stats_table(stats, escape(str(data))))


def _read(path: Path, columns: ColumnNames, progress: Progress) -> Interactions:
    """Read with a bar over the bytes of the file."""
    task: TaskID = progress.add_task(f"reading {escape(path.name)}", total=None)
    return read_interactions(path, columns, lambda done, total: progress.update(task, completed=done, total=total))


def _prepare(
    interactions: Interactions, options: PrepareOptions, source: dict[str, object], progress: Progress
) -> Prepared:
    """Prepare with a bar over the steps."""
    task = progress.add_task("preparing", total=STAGES)
    done = iter(range(STAGES))
    return prepare(
        interactions, options, source, lambda name: progress.update(task, completed=next(done), description=name)
    )


def _print_summary(console: Console, prepared: Prepared, read: int, out: Path) -> None:
    """What the folder holds, what was dropped and why."""
    dataset = prepared.dataset
    console.print(f"wrote {escape(str(out))}, {dataset.scheme} numbers")
    table = Table("", "count")
    table.columns[1].justify = "right"
    rows = {
        "interactions read": read,
        "users": dataset.user_count,
        "items": dataset.item_count,
        "interactions": dataset.interaction_count,
        **{f"explanations, {split}": len(records) for split, records in dataset.explanations.items() if records},
    }
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    if prepared.report.total:
        dropped = Table("dropped or set aside", "count", "first places")
        for reason, count in prepared.report.counts.items():
            dropped.add_row(reason, f"{count:,}", escape("\n".join(prepared.report.examples.get(reason, ()))))
        console.print(dropped)
    for note in prepared.notes:
        console.print(f"note: {note}")


def stats_table(stats: DatasetStats, title: str) -> Table:
    """The figures as a table."""
    table = Table("", "value", title=title)
    table.columns[1].justify = "right"
    lengths = f"{stats.length_median:g} / {stats.length_p95:g} / {stats.length_max}"
    shares = {
        "HR@1 of max(history)+1": stats.max_plus_one_hr1,
        "HR@10 of max(history)+1 … +10": stats.max_plus_one_hr10,
        "HR@10 of users with near numbers": stats.near_users_hr10,
        "the same, user numbers shuffled": stats.near_users_shuffled_hr10,
    }
    table.add_row("numbers", stats.scheme)
    for name in ("users", "items", "interactions"):
        table.add_row(name, f"{getattr(stats, name):,}")
    table.add_row("density", f"{stats.density:.4%}")
    table.add_row("items per user, median / p95 / max", lengths)
    table.add_row("negatives, test / validation", f"{stats.test_negatives} / {stats.validation_negatives}")
    for split, count in stats.explanations.items():
        table.add_row(f"explanations, {split}", f"{count:,}")
    table.add_section()
    for name, share in shares.items():
        table.add_row(name, f"{share:.4f}")
    table.add_row("training explanations of held-out pairs", f"{stats.leaky_explanations:,}")
    return table
