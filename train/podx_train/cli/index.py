"""``podx data index``: give the items of a dataset codes to be written with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from podx.bundle.manifest import file_sha256
from podx.errors import ConfigError, DataError
from podx.flags import with_flags
from podx_train.codes.code_shares import Shares, last_training_pairs, shares, training_pairs
from podx_train.codes.index_file import Codes, IndexKeys, disambiguate, read_index
from podx_train.codes.one_token import ONE_TOKEN, one_token_codes
from podx_train.codes.options import ClusterOptions
from podx_train.codes.text_file import held_out_pairs, read_texts
from podx_train.console import progress_bar
from podx_train.data.columns import ColumnNames
from podx_train.data.dataset import Dataset

if TYPE_CHECKING:
    from podx_train.codes.collaborative import Report

COLLABORATIVE, TEXT, INDEXED = "collaborative", "text", "indexed"
"""Names of id schemes whose items are codes."""
_Columns = tuple[ColumnNames, Sequence[str]]  # of user and item, and of the text, where they are named


@dataclass(frozen=True)
class _Index:
    """Codes, the name of their scheme, where they come from, and what the table says of them."""

    codes: Codes
    scheme: str
    provenance: Mapping[str, object]
    counts: Mapping[str, int] = field(default_factory=dict)
    unseen: Shares | None = None  # of codes made without the pairs they are judged by


@with_flags(options=ClusterOptions, columns=ColumnNames, leave_out=("timestamp", "review"))
def index_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to write.")],
    options: Mapping[str, Any],
    columns: Mapping[str, Any],
    collaborative: Annotated[bool, typer.Option("--collaborative", help="Codes from who took what together.")] = False,
    one_token: Annotated[bool, typer.Option("--one-token", help="Write each item as one token of its own.")] = False,
    text: Annotated[Path | None, typer.Option(help="Codes from titles or reviews, JSON lines or CSV.")] = None,
    text_model: Annotated[str | None, typer.Option(help="Encoder of texts, by folder or name; else TF-IDF.")] = None,
    text_column: Annotated[list[str] | None, typer.Option(help="Column with text; may be repeated.")] = None,
    file: Annotated[Path | None, typer.Option(help='Codes from a JSON file, {"0": ["<a_1>", ...], ...}.')] = None,
    keys: Annotated[IndexKeys, typer.Option(help="What the keys of the JSON file are.")] = IndexKeys.AUTO,
    scheme: Annotated[str | None, typer.Option(help="Name of these ids in reports; else how they are made.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the dataset folder if it is there.")] = False,
) -> None:
    """Copy a dataset, its items written as codes instead of numbers."""
    if [collaborative, one_token, text is not None, file is not None].count(True) != 1:
        raise ConfigError("say what the codes are: one of --one-token, --collaborative, --text and --file")
    if text is None and (text_model or columns or text_column):
        raise ConfigError("--text-model and names of columns are for --text: give it a file")
    dataset, console = Dataset.load(data), Console()
    if one_token:
        codes = list(one_token_codes(dataset.item_count))
        index = _Index(codes, ONE_TOKEN, {"method": ONE_TOKEN, "numbers": dataset.scheme})
    elif file is not None:
        index = _from_file(dataset, file, keys)
    else:
        with progress_bar(visible=True) as progress:
            if text is None:
                index = _from_training(dataset, ClusterOptions(**options), progress)
            else:
                names = (ColumnNames(**columns), text_column or ())
                index = _from_text(dataset, text, names, text_model, ClusterOptions(**options), progress)
    coded = dataclasses.replace(
        dataset,
        item_codes=tuple(index.codes),
        scheme=scheme or index.scheme,
        provenance={**dataset.provenance, "index": index.provenance},
    )
    coded.save(out, force=force)
    console.print(f"wrote {escape(str(out))}")
    console.print(_table(index, shares(index.codes, training_pairs(dataset))))


def _bar(progress: Progress, task: str) -> Report:
    """A bar of its own for a task, and how to move it."""
    bar = progress.add_task(task, total=None)
    return lambda done, total: progress.update(bar, completed=done, total=total)


def _from_training(dataset: Dataset, options: ClusterOptions, progress: Progress) -> _Index:
    """Codes from all of the training part, and how others, made without each user's last pair, do on these pairs."""
    from podx_train.codes.collaborative import collaborative_codes  # scikit-learn takes seconds to import

    report = partial(_bar, progress)
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
    return _Index(made, COLLABORATIVE, {"method": COLLABORATIVE, "options": asdict(options)}, unseen=unseen)


def _from_text(
    dataset: Dataset, path: Path, columns: _Columns, model: str | None, options: ClusterOptions, progress: Progress
) -> _Index:
    """Codes from the texts of a file."""
    from podx_train.codes.text import item_vectors, text_codes  # scikit-learn takes seconds to import

    report = partial(_bar, progress)
    texts, left_out = read_texts(path, held_out_pairs(dataset), *columns, report("bytes read"))
    of_items = [texts.get(raw, ()) for raw in dataset.item_ids]
    vectors = item_vectors(of_items, model, options.seed, report("texts embedded"))
    popularity = np.bincount(dataset.items[dataset.train_mask] - 1, minlength=dataset.item_count)
    codes = text_codes(vectors, popularity, options, report("items clustered"))
    origin = {"method": TEXT, "name": path.name, "sha256": file_sha256(path), "model": model or "tf-idf"}
    counts = {
        "items without text, spread over the smallest clusters": int((~vectors.any(axis=1)).sum()),
        "items of the file that are not in the dataset": len(texts.keys() - set(dataset.item_ids)),
        "lines of held-out interactions, not read": left_out,
    }
    return _Index(codes, TEXT, {**origin, "options": asdict(options)}, counts)


def _from_file(dataset: Dataset, file: Path, keys: IndexKeys) -> _Index:
    codes = read_index(file, dataset.item_ids, keys)
    distinct = disambiguate(codes)
    longer = sum(before != after for before, after in zip(codes, distinct, strict=True))
    origin = {"method": "file", "name": file.name, "sha256": file_sha256(file), "keys": keys.value}
    return _Index(distinct, INDEXED, origin, {"items that got a further code to differ": longer})


def _table(index: _Index, seen: Shares | None) -> Table:
    """What the codes are, and how much they tell of what follows what."""
    table = Table("", "value")
    table.columns[1].justify = "right"
    lengths = sorted({len(of_item) for of_item in index.codes})
    table.add_row("items", f"{len(index.codes):,}")
    for length in lengths:
        table.add_row(f"with {length} codes", f"{sum(len(of_item) == length for of_item in index.codes):,}")
    table.add_row("distinct codes", f"{len({code for of_item in index.codes for code in of_item}):,}")
    for name, count in index.counts.items():
        table.add_row(name, f"{count:,}")
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
