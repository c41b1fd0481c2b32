"""``podx data index``: give the items of a dataset codes to be written with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from podx.bundle.manifest import file_sha256
from podx.errors import ConfigError, DataError
from podx.flags import with_flags
from podx_train.codes.code_shares import Shares, last_training_pairs, shares, training_pairs
from podx_train.codes.collaborative_options import CollaborativeOptions
from podx_train.codes.index_file import Codes, IndexKeys, disambiguate, read_index
from podx_train.codes.one_token import ONE_TOKEN, one_token_codes
from podx_train.data.dataset import Dataset

if TYPE_CHECKING:
    from podx_train.codes.collaborative import Report

COLLABORATIVE, INDEXED = "collaborative", "indexed"
"""Names of id schemes whose items are codes."""


@dataclass(frozen=True)
class _Index:
    """Codes, where they come from, and what the table says of them."""

    codes: Codes
    provenance: Mapping[str, object]
    collisions: int = 0
    unseen: Shares | None = None  # of codes made without the pairs they are judged by


@with_flags(options=CollaborativeOptions)
def index_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to write.")],
    options: Mapping[str, Any],
    collaborative: Annotated[
        bool, typer.Option("--collaborative", help="Make codes from who took what together in training.")
    ] = False,
    one_token: Annotated[bool, typer.Option("--one-token", help="Write each item as one token of its own.")] = False,
    file: Annotated[
        Path | None, typer.Option("--file", help='Take codes from a JSON file, {"0": ["<a_1>", ...], ...}.')
    ] = None,
    keys: Annotated[IndexKeys, typer.Option(help="What the keys of the JSON file are.")] = IndexKeys.AUTO,
    scheme: Annotated[
        str | None,
        typer.Option(help="Name of these ids in every report; default: one-token, collaborative, or indexed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the dataset folder if it is there.")] = False,
) -> None:
    """Copy a dataset, its items written as codes instead of numbers."""
    if [collaborative, one_token, file is not None].count(True) != 1:
        raise ConfigError("say what the codes are: one of --one-token, --collaborative and --file")
    dataset, console = Dataset.load(data), Console()
    if one_token:
        index = _Index(list(one_token_codes(dataset.item_count)), {"method": ONE_TOKEN, "numbers": dataset.scheme})
    elif file is not None:
        index = _from_file(dataset, file, keys)
    else:
        with _progress(console) as progress:
            index = _from_training(dataset, CollaborativeOptions(**options), progress)
    coded = dataclasses.replace(
        dataset,
        item_codes=tuple(index.codes),
        scheme=scheme or (ONE_TOKEN if one_token else COLLABORATIVE if file is None else INDEXED),
        provenance={**dataset.provenance, "index": index.provenance},
    )
    coded.save(out, force=force)
    console.print(f"wrote {escape(str(out))}")
    console.print(_table(index, shares(index.codes, training_pairs(dataset))))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _from_training(dataset: Dataset, options: CollaborativeOptions, progress: Progress) -> _Index:
    """Codes from all of the training part, and how others, made without each user's last pair, do on these pairs."""
    from podx_train.codes.collaborative import collaborative_codes  # scikit-learn takes seconds to import

    def report(task: str) -> Report:
        bar = progress.add_task(task, total=dataset.item_count)
        return lambda done, total: progress.update(bar, completed=done, total=total)

    made = collaborative_codes(dataset.items, dataset.offsets, dataset.item_count, options, report("items clustered"))
    items, offsets, pairs = last_training_pairs(dataset)
    try:
        trial = collaborative_codes(
            items, offsets, dataset.item_count, options, report("the same, less a pair per user")
        )
    except DataError:  # too little is left
        unseen = None
    else:
        unseen = shares(trial, pairs)
    return _Index(made, {"method": "collaborative", "options": asdict(options)}, unseen=unseen)


def _from_file(dataset: Dataset, file: Path, keys: IndexKeys) -> _Index:
    codes = read_index(file, dataset.item_ids, keys)
    distinct = disambiguate(codes)
    longer = sum(before != after for before, after in zip(codes, distinct, strict=True))
    origin = {"method": "file", "name": file.name, "sha256": file_sha256(file), "keys": keys.value}
    return _Index(distinct, origin, collisions=longer)


def _table(index: _Index, seen: Shares | None) -> Table:
    """What the codes are, and how much they tell of what follows what."""
    table = Table("", "value")
    table.columns[1].justify = "right"
    lengths = sorted({len(of_item) for of_item in index.codes})
    table.add_row("items", f"{len(index.codes):,}")
    for length in lengths:
        table.add_row(f"with {length} codes", f"{sum(len(of_item) == length for of_item in index.codes):,}")
    table.add_row("distinct codes", f"{len({code for of_item in index.codes for code in of_item}):,}")
    table.add_row("items that got a further code to differ", f"{index.collisions:,}")
    for title, judged in (
        ("items in a row in training", seen),
        ("the same, of codes made without the pair", index.unseen),
    ):
        if judged is not None:
            table.add_section()
            table.add_row(f"{title}: same first code (by chance)", _share(judged.first, judged.first_by_chance))
            table.add_row("all but the last the same (by chance)", _share(judged.leaf, judged.leaf_by_chance))
    return table


def _share(found: float, chance: float) -> str:
    return f"{found:.4f} ({chance:.4f})"
