"""Another catalog for a bundle, without a new export: the graphs read the trie as data."""

from __future__ import annotations

import datetime
import os
import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from podx.atomic import partial_folder, put_in_place, replaced_folder
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.catalog import Catalog
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.tables import TableFile
from podx.bundle.trie_tables import LEVELS, widest
from podx.errors import CatalogError, ExportError
from podx.text.inputs import InputEncoder
from podx_export.blocks.graph import values_read
from podx_export.card import write_card
from podx_export.catalog.change import CatalogChange, changed, require_known_codes
from podx_export.search.table_initializers import drop_unread, reads_tables, repoint
from podx_export.search.words import item_words

GRAPH_SUFFIX = ".onnx"


def update_bundle(bundle: Path, out: Path, change: CatalogChange) -> Manifest:
    """Write a bundle that recommends from a changed catalog.

    Args:
        bundle: the bundle to start from.
        out: folder to make; the bundle itself to replace it.
        change: what comes off the list, comes back, or is new.

    Returns:
        The new bundle's manifest.

    Raises:
        BundleError: the bundle is damaged, or was exported before catalogs could be changed.
        CatalogError: the change cannot be made (:func:`podx_export.catalog.change.changed`), an item would have more
            tokens than the graphs walk, or, for a one-pass model, begin another item or have a token that the model did
            not learn (:func:`podx_export.catalog.change.require_known_codes`).
        TokenizerError: a new item cannot be written.
        ExportError: ``out`` is in use.
    """
    bundle, out = bundle.resolve(), out.resolve()
    _bring_back(bundle)
    if out != bundle and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} is in use: choose another --out, or change the bundle itself with --in-place")
    source = Bundle.load(bundle)
    source.file(CATALOG_FILE)
    catalog = changed(source.catalog, source.tokenizer, change)
    if source.manifest.one_pass:
        require_known_codes(source.catalog, catalog)
    return put_catalog(source, out, catalog)


def put_catalog(source: Bundle, out: Path, catalog: Catalog) -> Manifest:
    """Write a bundle whose catalog is another one. ``out``: a folder that is free, or the bundle's own.

    Raises:
        CatalogError: an item has more tokens than the graphs walk.
    """
    catalog = _with_words(source, catalog)
    with partial_folder(out) as partial:
        catalog.save(partial / CATALOG_FILE, source.manifest.one_pass)
        written = {CATALOG_FILE, *_renew_graphs(source, partial, catalog)}
        for name in source.manifest.files.keys() - written:
            _share(source.path / name, partial / name)
        sums = {name: file_sha256(partial / name) for name in written}
        manifest = replace(
            source.manifest,
            files={**source.manifest.files, **sums},
            provenance={**source.manifest.provenance, "catalog": _provenance(catalog)},
        )
        (partial / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
        write_card(partial)
        put_in_place(partial, out)
    return manifest


def _with_words(source: Bundle, catalog: Catalog) -> Catalog:
    """The catalog with how its items are written in inputs, where the bundle has a graph that reads it."""
    words, manifest = source.catalog.words, source.manifest
    if words is None:
        return catalog
    encoder = InputEncoder(source.tokenizer, catalog.text, manifest.whole_word_rows, manifest.item_prefix)
    items = item_words(catalog, encoder, manifest.item_prefix)
    return replace(catalog, words=words.followed_by(items, keep=len(words) - len(source.catalog)))


def _bring_back(bundle: Path) -> None:
    """Undo what a kill between two renames may have left: the bundle moved aside and nothing in its place."""
    aside = replaced_folder(bundle)
    if not bundle.exists() and (aside / MANIFEST_FILE).is_file():
        aside.rename(bundle)


def _renew_graphs(source: Bundle, partial: Path, catalog: Catalog) -> list[str]:
    """Write the graphs that read the catalog anew, over the file in ``partial``; their names."""
    tables = TableFile(partial / CATALOG_FILE)
    written = []
    for name in source.manifest.files:
        if not name.endswith(GRAPH_SUFFIX):
            continue
        model = onnx.load(str(source.path / name), load_external_data=False)
        if not reads_tables(model, tables):
            continue
        levels = levels_walked(model)
        if catalog.trie.depth > levels:
            raise CatalogError(
                f"the longest item is now written with {catalog.trie.depth} tokens, but {name} walks {levels}: give "
                f"the new items shorter texts, or train and export again with these items"
            )
        repoint(model, tables)
        drop_unread(model)
        (partial / name).write_bytes(model.SerializeToString())
        written.append(name)
    return written


def levels_walked(model: onnx.ModelProto) -> int:
    """Levels of the trie that a graph's walk is unrolled over: each reads a table of its own."""
    read = values_read(model.graph.node)
    return max((level + 1 for level in range(LEVELS) if widest(level) in read), default=LEVELS)


def _share(source: Path, target: Path) -> None:
    """The same file under another name, where the disk can; else a copy. No file of a bundle is ever changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _provenance(catalog: Catalog) -> dict[str, object]:
    return {
        "changed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "items": len(catalog),
        "listed": int(catalog.listed.sum()),
    }
