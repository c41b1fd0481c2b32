"""``podx catalog``: look at a bundle's catalog, change which items can come back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.catalog import Catalog
from podx.errors import ConfigError
from podx_export.catalog.change import CatalogChange
from podx_export.catalog.update import update_bundle

_MEGABYTE = 1e6

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at a bundle's catalog, or change it.")

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("update")
def update_command(
    bundle: BundlePath,
    out: Annotated[Path | None, typer.Option("--out", help="Bundle folder to make.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the bundle itself.")] = False,
    delist: Annotated[
        Path | None, typer.Option("--delist", help="Items that must not come back any more: a raw id per line.")
    ] = None,
    restore: Annotated[
        Path | None, typer.Option("--list", help="Delisted items that may come back again: a raw id per line.")
    ] = None,
    add: Annotated[
        Path | None, typer.Option("--add", help="New items, CSV or TSV without header: raw id, and text if it has one.")
    ] = None,
) -> None:
    """Change which items can be recommended, without a new export."""
    if (out is None) != in_place:
        raise ConfigError("say where the changed bundle goes: either --out FOLDER or --in-place")
    if delist is None and restore is None and add is None:
        raise ConfigError("nothing to change: give --delist, --list or --add a file")
    change = CatalogChange.read(delist, restore, add)
    manifest = update_bundle(bundle, out or bundle, change)
    counts = manifest.provenance["catalog"]
    console = Console()
    console.print(f"{counts['listed']:,} of {counts['items']:,} items can be recommended")
    console.print(f"bundle: {out or bundle}", soft_wrap=True, markup=False)


@app.command("show")
def show_command(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show how many items a bundle has and the shape of their prefix tree."""
    loaded = Bundle.load(bundle)
    figures = catalog_figures(loaded.catalog, loaded.file(CATALOG_FILE))
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        Console().print(_table(figures))


def catalog_figures(catalog: Catalog, path: Path) -> dict[str, Any]:
    """Counts of a catalog and the branching of its trie, level by level."""
    trie = catalog.trie
    starts = trie.level_starts()
    levels = []
    for first, last in pairwise(starts[: trie.depth + 1]):
        children = np.diff(trie.child_start[first : last + 1])
        inner = children[children > 0]
        levels.append({"nodes": last - first, "children_mean": float(inner.mean()), "children_most": int(inner.max())})
    return {
        "items": len(catalog),
        "listed": trie.listed_count,
        "tokens": len(trie.tokens_in_use()),
        "longest_item_tokens": trie.depth,
        "nodes": trie.node_count,
        "megabytes": path.stat().st_size / _MEGABYTE,
        "levels": levels,
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table("", "value", title="catalog")
    table.columns[1].justify = "right"
    table.add_row("items", f"{figures['items']:,}")
    table.add_row("that can be recommended", f"{figures['listed']:,}")
    table.add_row("tokens in use", f"{figures['tokens']:,}")
    table.add_row("tokens of the longest item", str(figures["longest_item_tokens"]))
    table.add_row("nodes of the prefix tree", f"{figures['nodes']:,}")
    table.add_row(f"size of {CATALOG_FILE}", f"{figures['megabytes']:.1f} MB")
    table.add_section()
    for level, of_level in enumerate(figures["levels"]):
        shape = f"{of_level['children_mean']:.1f} / {of_level['children_most']:,}"
        table.add_row(f"level {level}: {of_level['nodes']:,} nodes, children mean / most", shape)
    return table
