"""Bundle folders appear whole or not at all: they are made beside their place and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX, REPLACED_SUFFIX = ".partial", ".replaced"


@contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside ``out``, which is gone afterwards unless it was put in its place."""
    partial = out.with_name(out.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, out: Path) -> None:
    """Rename. A bundle that is there is moved aside first, comes back if the rename fails, and is removed last."""
    if not out.is_dir():
        partial.rename(out)
        return
    replaced = replaced_folder(out)
    shutil.rmtree(replaced, ignore_errors=True)
    out.rename(replaced)
    try:
        partial.rename(out)
    except BaseException:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def replaced_folder(out: Path) -> Path:
    """Where the bundle at ``out`` waits while another takes its place."""
    return out.with_name(out.name + REPLACED_SUFFIX)
