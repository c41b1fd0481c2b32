"""The exported folder: everything a service needs, checked when it is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog
from podx.bundle.manifest import MANIFEST_FILE, Manifest
from podx.bundle.users import UserTable
from podx.errors import BundleError
from podx.text.inputs import InputEncoder
from podx.text.templates import Task, Template
from podx.text.tokenizer import Tokenizer

CATALOG_FILE = "catalog.bin"
USERS_FILE = "users.bin"
FORMER_USERS_FILE = "users.npz"
"""In its place in bundles that were written before there was :data:`USERS_FILE`."""
TOKENIZER_FILE = "spiece.model"
_VERSION_DIGITS = 12


@dataclass(frozen=True)
class _HeldFile:
    """What a file holds, mapped, whatever becomes of its name; and by what it is known again."""

    content: npt.NDArray[np.uint8]
    identity: tuple[int, int, int, int]

    @classmethod
    def of(cls, path: Path, sha256: str | None) -> _HeldFile:
        """Map a file. ``sha256``: its checksum, where that is to be compared.

        Raises:
            BundleError: it is another one.
        """
        with path.open("rb") as file:
            # read, not looked at in the map, whose pages would count as this process's memory
            if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BundleError(f"{path} is damaged or was changed: copy it anew, or export the bundle again")
            stat = os.fstat(file.fileno())
            mapped = np.memmap(file, dtype=np.uint8, mode="r") if stat.st_size else np.zeros(0, dtype=np.uint8)
        return cls(np.asarray(mapped), _identity(stat))


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class Bundle:
    """An exported folder whose files have been checked.

    Its files are mapped when it is loaded. podx never writes into a file that is there, but puts another in its place,
    so the maps keep what was checked: see :attr:`held`.

    Attributes:
        version: the first 12 hex digits of the manifest's sha256, and so, since it lists those of all files, of
            everything in the bundle: the same wherever it is copied.
        held: what each file held when the bundle was loaded, by name.
    """

    def __init__(self, path: Path, manifest: Manifest, version: str, files: Mapping[str, _HeldFile]) -> None:
        self.path = path
        self.manifest = manifest
        self.version = version
        self.held = {name: file.content for name, file in files.items()}
        self._identities = {name: file.identity for name, file in files.items()}

    @classmethod
    def load(cls, path: Path, verify: bool = True) -> Bundle:
        """Open a bundle.

        Args:
            path: the folder.
            verify: compare every file with its checksum (reads each file once).

        Raises:
            BundleError: a file is missing, or differs from what was exported.
            BundleVersionError: another format version.
        """
        manifest_path = path / MANIFEST_FILE
        if not manifest_path.is_file():
            raise BundleError(f"{path} holds no {MANIFEST_FILE}: give a folder that podx export wrote")
        try:
            text = manifest_path.read_bytes().decode("utf-8")  # as it is: text mode would change line ends
        except UnicodeDecodeError as error:
            raise BundleError(f"{manifest_path} is damaged ({error}): export the bundle again") from error
        manifest, files = Manifest.from_json(text), {}
        for name, sha256 in manifest.files.items():
            if not (path / name).is_file():
                raise BundleError(f"{path / name} is missing: copy the whole bundle, or export it again")
            files[name] = _HeldFile.of(path / name, sha256 if verify else None)
        return cls(path, manifest, hashlib.sha256(text.encode()).hexdigest()[:_VERSION_DIGITS], files)

    def require_unchanged(self) -> None:
        """Make sure that what was read by path since :meth:`load` is what was checked then.

        Raises:
            BundleError: a file has gone, or another has taken its place.
        """
        for name, identity in self._identities.items():
            path = self.path / name
            if not path.is_file() or _identity(path.stat()) != identity:
                raise BundleError(f"{path} was replaced while the bundle was loaded: load it again")

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"this bundle has no {name}: export it again with this version of podx")
        return self.path / name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokeniser."""
        return Tokenizer(self.file(TOKENIZER_FILE))

    @cached_property
    def catalog(self) -> Catalog:
        """The items that can be recommended."""
        return Catalog.load(self.file(CATALOG_FILE))

    def input_encoder(self) -> InputEncoder:
        """Writes inputs as the model was trained to read them."""
        manifest = self.manifest
        templates = {Task(name): Template.parse(Task(name), text) for name, text in manifest.templates.items()}
        return InputEncoder(
            self.tokenizer,
            self.catalog.text,
            manifest.whole_word_rows,
            manifest.item_prefix,
            templates,
            manifest.one_pass,
        )

    @cached_property
    def users(self) -> UserTable:
        """The users the model knows."""
        if FORMER_USERS_FILE in self.manifest.files:
            return UserTable.load_archive(self.file(FORMER_USERS_FILE))
        return UserTable.load(self.file(USERS_FILE))
