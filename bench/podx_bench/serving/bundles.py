"""Other bundles made of one: with other answers, or damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.catalog import Catalog, IdTable
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256

JUNK: tuple[Any, ...] = (None, -1, 2**70, 1e308, "", "\0", [], {}, [1], {"a": 1}, True, "x" * 10_000)
"""What an entry of a manifest may be turned into."""


def linked(bundle: Path, folder: Path) -> Path:
    """The same files under another name; what is written anew there leaves those of the bundle alone."""
    return Path(shutil.copytree(bundle, folder, copy_function=os.link))


def put(path: Path, content: bytes) -> None:
    """Put another file in the place of one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def renamed(bundle: Path, folder: Path) -> Path:
    """A bundle with the same model whose items all have the ids of other items, so that no answer is the same."""
    catalog = Catalog.load(linked(bundle, folder) / CATALOG_FILE)
    ids = IdTable(np.roll(catalog.items.raw_ids, 1), "item")
    manifest = Bundle.load(bundle).manifest
    (folder / CATALOG_FILE).unlink()
    replace(catalog, items=ids).save(folder / CATALOG_FILE, manifest.one_pass)
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Let the manifest have the checksums of the files as they are."""
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    files = {name: file_sha256(folder / name) for name in manifest.files if (folder / name).exists()}
    put(folder / MANIFEST_FILE, replace(manifest, files=files).to_json().encode())


def _flipped(content: bytes, random: np.random.Generator) -> bytes:
    changed = np.frombuffer(content, dtype=np.uint8).copy()
    places = random.integers(max(len(changed), 1), size=random.integers(1, 9) if len(changed) else 0)
    changed[places] ^= random.integers(1, 256, size=len(places), dtype=np.uint8)
    return changed.tobytes()


def _overwritten(content: bytes, random: np.random.Generator) -> bytes:
    first, last = sorted(random.integers(len(content) + 1, size=2).tolist())
    return content[:first] + random.bytes(last - first) + content[last:]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flipped,
    _overwritten,
    lambda content, random: content[: random.integers(len(content) + 1)],
    lambda content, random: content + random.bytes(int(random.integers(1, 100))),
    lambda content, random: b"",
)


def damaged(bundle: Path, folder: Path, random: np.random.Generator) -> Path:
    """A bundle with one fault: a file lost, exchanged or with other bytes, or an entry of the manifest without sense.

    In half of them the checksums are made anew. The card beside the bundle is no part of it.
    """
    linked(bundle, folder)
    names = sorted([*Bundle.load(bundle, verify=False).manifest.files, MANIFEST_FILE])
    path, kind = folder / str(random.choice(names)), random.integers(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        put(path, (folder / str(random.choice(names))).read_bytes())
    elif kind == 2:
        manifest = Bundle.load(bundle, verify=False).manifest
        entry = str(random.choice([field.name for field in fields(manifest)]))
        changed = replace(manifest, **{entry: JUNK[random.integers(len(JUNK))]})
        put(folder / MANIFEST_FILE, changed.to_json().encode("utf-8", "surrogatepass"))
        return folder
    else:
        put(path, DAMAGES[random.integers(len(DAMAGES))](path.read_bytes(), random))
    if path.name != MANIFEST_FILE and random.integers(2):
        sign(folder)
    return folder
