"""``manifest.json``: what is in a bundle, with the sha256 of each file.

It carries a checksum of itself, so a damaged byte anywhere is found before a graph is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podx.bundle.signature import ModelShape
from podx.errors import BundleError, BundleVersionError
from podx.text.templates import ALL_TASKS, ITEM_PREFIX, Task

FORMAT = "podx-bundle"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
INT8 = "int8"
EARLIER_INT8_LIMIT = 127
"""Of int8 bundles whose manifest does not say it."""
LIKELY = 0.05
"""Probability of an item's other tokens from which on its last one has no ceiling; below, the ceiling falls with it."""
_CHECKSUM = "manifest_sha256"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A file in the bundle's own folder on every system: no separator, no drive, no hidden file."""


@dataclass(frozen=True)
class Manifest:
    """What is in a bundle. Fields that this version does not know are passed over when a manifest is read.

    Attributes:
        shape: what the graphs' tensors depend on.
        tasks: in the order of the graphs' ``task_id``.
        prompts: prompt vectors per task (K). user_prompts: prompt vectors of each user (P), of which the encoder graph
            holds a table; 0: users have none.
        max_history: items of a history that the model was trained to read.
        whole_word_rows: ids an input can hold, plus one.
        start_token: first token the decoder is fed.
        item_prefix: what stands before an item's text in inputs; nothing where items are written as codes.
        templates: text of each task's template for inputs, by task; the bare one for the tasks that are left out.
        levels: tokens of the longest item that ``recommend.onnx`` can walk to; 0 where the bundle has no such graph.
        one_pass: histories are read one position an item by a causal encoder, the decoder starts from the last item,
            and scores are over siblings (docs/architecture.md); such a model answers top-N by the sequential task.
        ceiling: how likely an item's last token of several may be among its siblings where those before are unlikely
            (docs/architecture.md, what a score is); 1: as likely as the model has it.
        int8_limit: magnitude that no 8-bit weight of the matrix products exceeds; 0: not said, or no such weights.
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
    one_pass: bool = False
    ceiling: float = 1.0
    int8_limit: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> tuple[Task, ...]:
        """The tasks that a caller may ask for: a one-pass model ranks candidates by the sequential task."""
        ranks = self.one_pass and Task.TOPN not in self.tasks
        return tuple(task for task in ALL_TASKS if task in self.tasks or (ranks and task is Task.TOPN))

    def task_id(self, task: Task) -> int:
        """Number, in the graphs, of the task by which one of :attr:`answered` is answered."""
        return self.tasks.index(task if task in self.tasks else Task.SEQUENTIAL)

    @property
    def largest_int8(self) -> int:
        """Magnitude that no 8-bit weight exceeds; 0: there are no such weights."""
        if self.precision != INT8:
            return 0
        return self.int8_limit or EARLIER_INT8_LIMIT

    @property
    def prompt_vectors(self) -> int:
        """Vectors that stand before the text: the task's and the user's. The decoder's memory is as much longer."""
        return self.prompts + self.user_prompts

    def to_json(self) -> str:
        """Text of ``manifest.json``."""
        content = msgspec.to_builtins(self, str_keys=True)
        return _with_checksum({"format": FORMAT, "format_version": FORMAT_VERSION, **content})

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            BundleError: not such a text, a byte of it was changed, an entry is missing or of a wrong type, or a file's
                name would lead out of the bundle's folder.
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
        try:
            manifest = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise BundleError(f"{MANIFEST_FILE} has not the entries of a bundle ({error}): export again") from error
        for name in manifest.files:
            if not _PLAIN_NAME.fullmatch(name):
                raise BundleError(
                    f"{MANIFEST_FILE} lists a file {name!r}, which is no plain file name and might lie outside the "
                    f"bundle: do not use this bundle unless you know who made it; export it again"
                )
        return manifest


def _with_checksum(content: Mapping[str, Any]) -> str:
    """The text of a manifest, which has one spelling only, so that reading can compare byte by byte."""
    plain = json.dumps(content, sort_keys=True, ensure_ascii=True)
    signed = {**content, _CHECKSUM: hashlib.sha256(plain.encode()).hexdigest()}
    return json.dumps(signed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
