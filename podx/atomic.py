"""A file or folder appears whole or not at all: written under a temporary name beside its place, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from podx.errors import DataError

PARTIAL_SUFFIX, REPLACED_SUFFIX = ".partial", ".replaced"
READABLE_MODE = 0o644
"""Some libraries write files that only their owner can read; a service often runs as someone else."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under a temporary name, then put it in place of ``path`` in one step.

    The name is a hidden one: who reads all files of the folder meanwhile does not meet half a file.
    """
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        write(partial)
        partial.chmod(READABLE_MODE)
        with partial.open("rb+") as file:  # Windows makes durable only what is open for writing
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """:func:`replace_file` with given bytes."""
    replace_file(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """:func:`replace_file` with text."""
    write_bytes(path, text.encode())


def _check_target(path: Path, marker: str, force: bool) -> None:
    """Refuse a place that holds something else, or something of value without ``force``."""
    if not path.exists():
        return
    if not path.is_dir():
        raise DataError(f"{path} is a file: choose another folder to write to")
    if not any(path.iterdir()):
        return
    if not force:
        raise DataError(f"{path} is not empty: choose another folder, or replace it with --force")
    if not (path / marker).exists():
        raise DataError(f"{path} holds other files than ours (no {marker}): --force does not replace it")


@contextmanager
def whole_folder(path: Path, marker: str, force: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write into; it becomes ``path`` when the block ends without error.

    Args:
        path: where the folder shall be.
        marker: a file that every folder of this kind has; ``force`` replaces no folder without it.
        force: replace a folder that is not empty.

    Raises:
        DataError: the place is taken, or cannot be written to.
    """
    _check_target(path, marker, force)
    try:
        partial = _make_partial(path)
    except OSError as error:
        raise DataError(f"cannot write beside {path}: {error}; choose another folder") from error
    try:
        yield partial
        put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which is gone afterwards unless :func:`put_in_place` gave it that name."""
    partial = _make_partial(path)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_partial(path: Path) -> Path:
    """The folder that takes the place of ``path`` later, emptied of what a killed process may have left."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a folder. One that is there is moved aside first, comes back if the rename fails, and is removed last."""
    replaced = replaced_folder(path)
    if path.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    try:
        partial.rename(path)
    except BaseException:
        if replaced.is_dir() and not path.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    _sync(path.parent)


def replaced_folder(path: Path) -> Path:
    """Where the folder at ``path`` waits while another takes its place."""
    return path.with_name(path.name + REPLACED_SUFFIX)


def _sync(folder: Path) -> None:
    """Make the rename durable where the platform lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)
