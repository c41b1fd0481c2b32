"""Results on disk: JSON that names its format and version, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.errors import DataError

PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class RecordFile:
    """A kind of file. ``name``: its file name; ``command``: what writes it."""

    name: str
    format: str
    version: int
    command: str

    def write(self, folder: Path, content: Mapping[str, Any]) -> Path:
        """Write into a folder, which is made where it is missing; returns the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.name
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        with partial.open("w", encoding="utf-8") as file:
            whole = {"format": self.format, "format_version": self.version, **content}
            json.dump(whole, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return path

    def read(self, path: Path) -> dict[str, Any]:
        """The content that :meth:`write` was given, as JSON values.

        Raises:
            DataError: the file is missing, is no such file, or has another format version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}; give a {self.name} that {self.command} wrote") from error
        if not isinstance(content, dict) or content.pop("format", None) != self.format:
            raise DataError(f"{path} holds no results of {self.command}: give a {self.name} that it wrote")
        version = content.pop("format_version", None)
        if version != self.version:
            raise DataError(
                f"{path} has format version {version!r}, this podx reads {self.version}: run {self.command} again"
            )
        return content

    def damaged(self, path: Path, error: Exception) -> DataError:
        """What to raise where the content does not fit the records."""
        return DataError(f"{path} is damaged ({error!r}): run {self.command} again")
