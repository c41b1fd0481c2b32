"""The exported folder: everything a service needs, checked when it is loaded."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from podx.bundle.catalog import Catalog
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.users import UserTable
from podx.errors import BundleError
from podx.text.inputs import InputEncoder
from podx.text.templates import Task, Template
from podx.text.tokenizer import Tokenizer

CATALOG_FILE = "catalog.bin"
USERS_FILE = "users.npz"
TOKENIZER_FILE = "spiece.model"
_VERSION_DIGITS = 12


class Bundle:
    """An exported folder whose files have been checked.

    Attributes:
        version: the first 12 hex digits of the manifest's sha256, and so, since it lists those of all files, of
            everything in the bundle: the same wherever it is copied.
    """

    def __init__(self, path: Path, manifest: Manifest, version: str) -> None:
        self.path = path
        self.manifest = manifest
        self.version = version

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
        manifest = Manifest.from_json(text)
        for name, sha256 in manifest.files.items():
            if not (path / name).is_file():
                raise BundleError(f"{path / name} is missing: copy the whole bundle, or export it again")
            if verify and file_sha256(path / name) != sha256:
                raise BundleError(f"{path / name} is damaged or was changed: copy it anew, or export the bundle again")
        return cls(path, manifest, hashlib.sha256(text.encode()).hexdigest()[:_VERSION_DIGITS])

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
        return UserTable.load(self.file(USERS_FILE))
