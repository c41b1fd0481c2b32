"""Results on disk: JSON that names its format and version, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from podx.atomic import write_text
from podx.errors import DataError
from podx_bench.harness.child import encode_value

T = TypeVar("T")
DIGEST_LENGTH = 16
"""Characters of a hash: enough to tell any files apart that one machine ever sees."""


def digest_of(*parts: object) -> str:
    """What tells a file or folder that is made from these JSON values from others, for its name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


@dataclass(frozen=True)
class RecordFile(Generic[T]):
    """A kind of file.

    Attributes:
        name: its file name. format, version: what it says it is. command: what writes it.
        kind: frozen dataclass that it holds. Fields that a file lacks take their defaults, unknown ones are ignored.
        renamed: what a field is called in files of older runs, by its name there.
    """

    name: str
    format: str
    version: int
    command: str
    kind: type[T]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path, content: T) -> Path:
        """Write into a folder, which is made where it is missing; returns the path."""
        mark = {"format": self.format, "format_version": self.version}
        whole = mark | msgspec.to_builtins(content, enc_hook=encode_value)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / self.name, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return folder / self.name

    def kept(self, folder: Path) -> T | None:
        """What an earlier run wrote into a folder, see :meth:`read`; None: nothing."""
        return self.read(folder / self.name) if (folder / self.name).exists() else None

    def read(self, path: Path) -> T:
        """The content that :meth:`write` was given.

        Raises:
            DataError: the file is missing, is no such file, is damaged, or has another format version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}; give a {self.name} that {self.command} wrote") from error
        if not isinstance(content, dict) or content.pop("format", None) != self.format:
            raise DataError(f"{path} holds no results of {self.command}: give a {self.name} that it wrote")
        version = content.pop("format_version", None)
        if version != self.version:
            wanted = f"has format version {version!r}, this podx reads {self.version}"
            raise DataError(f"{path} {wanted}: run {self.command} again")
        try:
            return msgspec.convert({self.renamed.get(name, name): value for name, value in content.items()}, self.kind)
        except msgspec.ValidationError as error:
            raise DataError(f"{path} is damaged ({error!r}): run {self.command} again") from error
