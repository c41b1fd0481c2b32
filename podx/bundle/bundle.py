"""The exported folder: everything a service needs, checked when it is loaded.

``manifest.json`` names each file with its sha256, and itself carries a checksum, so a damaged byte anywhere is found
before a graph is run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog, IdTable, read_arrays
from podx.bundle.signature import ModelShape
from podx.errors import BundleError, BundleVersionError
from podx.text.inputs import InputEncoder
from podx.text.templates import ITEM_PREFIX, Task, Template
from podx.text.tokenizer import Tokenizer

FORMAT = "podx-bundle"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
CATALOG_FILE = "catalog.bin"
EARLIER_CATALOG_FILE = "catalog.npz"
USERS_FILE = "users.npz"
TOKENIZER_FILE = "spiece.model"
_CHECKSUM = "manifest_sha256"
_WITHOUT_VECTORS = "without_vectors"


@dataclass(frozen=True)
class Manifest:
    """What is in a bundle.

    Attributes:
        shape: what the graphs' tensors depend on.
        tasks: in the order of the graphs' ``task_id``.
        prompts: prompt vectors per task (K). user_prompts: prompt vectors of each user (P), of which the encoder graph
            holds a table; 0: users have none.
        max_history: items of a history that the model was trained to read.
        whole_word_rows: ids an input can hold, plus one.
        start_token: first token the decoder is fed.
        item_prefix: what stands before an item's text in inputs; nothing where items are written as codes.
        templates: wording of each task's inputs, by task; the bare one for the tasks that are left out.
        levels: tokens of the longest item that ``recommend.onnx`` can walk to; 0 where the bundle has no such graph.
        files: sha256 of each file.
        parity: how far the graphs are from the eager model, as measured at export.
        provenance: where the model came from: training options, data, versions.
    """

    podx_version: str
    shape: ModelShape
    tasks: tuple[Task, ...]
    prompts: int
    scheme: str
    precision: str
    max_history: int
    whole_word_rows: int
    start_token: int
    item_prefix: str = ITEM_PREFIX
    templates: Mapping[str, str] = field(default_factory=dict)
    user_prompts: int = 0
    levels: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_vectors(self) -> int:
        """Vectors that stand before the text: the task's and the user's. The decoder's memory is as much longer."""
        return self.prompts + self.user_prompts

    def to_json(self) -> str:
        """Text of ``manifest.json``."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return _with_checksum(json.loads(json.dumps(content)))  # plain JSON types, as they will be read

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            BundleError: not such a text, or a byte of it was changed.
            BundleVersionError: written in another format version.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{MANIFEST_FILE} is damaged ({error}): export the bundle again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BundleError(f"{MANIFEST_FILE} does not describe a podx bundle")
        if content.get("format_version") != FORMAT_VERSION:
            raise BundleVersionError(
                f"the bundle has format version {content.get('format_version')!r}, this podx reads "
                f"{FORMAT_VERSION}: export it again with this version, or install the podx that wrote it"
            )
        content.pop(_CHECKSUM, None)
        if _with_checksum(content) != text:  # white space included: a lost last line break may mean a copy cut short
            raise BundleError(f"{MANIFEST_FILE} was changed after it was written: copy it anew, or export again")
        del content["format"], content["format_version"]
        try:
            content["shape"] = ModelShape(**content["shape"])
            content["tasks"] = tuple(Task(name) for name in content["tasks"])
            return cls(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST_FILE} lacks an entry or has one too many ({error}): export again") from error


def _with_checksum(content: Mapping[str, Any]) -> str:
    """The text of a manifest, which has one spelling only, so that reading can compare byte by byte."""
    plain = json.dumps(content, sort_keys=True, ensure_ascii=True)
    signed = {**content, _CHECKSUM: hashlib.sha256(plain.encode()).hexdigest()}
    return json.dumps(signed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class UserTable:
    """Users 1 … n: raw ids, and the items each is known to have (for requests without a history).

    Attributes:
        items: int32 [total], item numbers of all users, oldest first; ``offsets``: int64 [n + 1].
        without_vectors: int32, numbers of the users of whom a model with prompt vectors for each user has none; None:
            there are no such users, or the model has no such vectors.
    """

    ids: IdTable
    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    without_vectors: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def history(self, user: int) -> npt.NDArray[np.int32]:
        """Known items of a user number, oldest first."""
        return self.items[self.offsets[user - 1] : self.offsets[user]]

    def save(self, path: Path) -> None:
        """Write as ``.npz`` without pickled objects."""
        arrays: dict[str, Any] = {"raw_ids": self.ids.raw_ids, "items": self.items, "offsets": self.offsets}
        if self.without_vectors is not None:
            arrays[_WITHOUT_VECTORS] = self.without_vectors
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> UserTable:
        """Read what :meth:`save` wrote.

        Raises:
            CatalogError: the file is not such a table.
        """
        arrays = read_arrays(path, ("raw_ids", "items", "offsets"))
        without = arrays.get(_WITHOUT_VECTORS)
        return cls(IdTable(arrays["raw_ids"], "user"), arrays["items"], arrays["offsets"], without)


class Bundle:
    """An exported folder whose files have been checked."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

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
        return cls(path, manifest)

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
        if CATALOG_FILE in self.manifest.files:
            return Catalog.load(self.file(CATALOG_FILE))
        arrays = read_arrays(self.file(EARLIER_CATALOG_FILE), ("raw_ids", "tokens", "offsets"))
        items, listed = IdTable(arrays["raw_ids"], "item"), np.ones(len(arrays["raw_ids"]), dtype=np.bool_)
        eos = self.tokenizer.eos_id
        return Catalog(items, arrays["tokens"], arrays["offsets"], listed, eos, arrays.get("texts"))

    def input_encoder(self) -> InputEncoder:
        """Writes inputs as the model was trained to read them."""
        manifest = self.manifest
        wordings = {Task(name): Template.parse(Task(name), text) for name, text in manifest.templates.items()}
        return InputEncoder(self.tokenizer, self.catalog.text, manifest.whole_word_rows, manifest.item_prefix, wordings)

    @cached_property
    def users(self) -> UserTable:
        """The users the model knows."""
        return UserTable.load(self.file(USERS_FILE))
