"""Conversions are kept from run to run, in folders named after what they were made from."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

KEY_LENGTH = 16
"""Characters of the hash: enough to tell any checkpoints apart that one machine ever sees."""
_CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Folder of all conversions, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podx" / "peers"


def content_key(files: Sequence[Path], *more: str) -> str:
    """Name for what is made from these files: it follows from their bytes and ``more``, not from where they lie."""
    digest = hashlib.sha256()
    for text in more:
        digest.update(text.encode() + b"\0")
    for path in files:
        own = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                own.update(chunk)
        digest.update(own.digest())
    return digest.hexdigest()[:KEY_LENGTH]


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, made if it is not there: under a temporary name, then renamed, so that it is never there in part."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        made = Path(partial) / folder.name
        made.mkdir()
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # another run has made it meanwhile: either will do
                raise
            shutil.rmtree(made)
    return folder
