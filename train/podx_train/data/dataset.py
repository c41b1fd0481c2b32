"""The dataset a model is trained and judged on: sequences, negatives, explanations and raw ids of one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from podx.atomic import whole_folder
from podx.errors import ConfigError, DataError
from podx_train.data import folder
from podx_train.data.folder import EXPLANATION_SPLITS, MIN_SEQUENCE, ExplanationRecord, Int32Array

__all__ = ["UNKNOWN_SCHEME", "Dataset", "ExplanationRecord", "Split"]

Split = Literal["train", "validation", "test"]

UNKNOWN_SCHEME = "unknown"  # of a folder that does not say how its items were numbered


def _no_explanations() -> dict[str, list[ExplanationRecord]]:
    return {split: [] for split in EXPLANATION_SPLITS}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Sequences with their leave-one-out split, and what goes with them. Users and items are numbered from 1.

    The last item of a sequence is its test item, the one before its validation item, the rest is for training.

    Attributes:
        items: int32 [interactions], all users' items one after another, each user's in order of time.
        offsets: int32 [users + 1]; user u's items are ``items[offsets[u - 1]:offsets[u]]``.
        user_ids: raw id of user number i + 1.
        item_ids: raw id of item number i + 1.
        test_negatives: int32 [users, n], the items a user's test item is ranked against in top-N; n = 99 in the paper.
        validation_negatives: int32 [users, n], likewise for the validation item.
        explanations: records of the splits ``train``, ``val`` and ``test``.
        scheme: how the numbers were given (``train-first``, ``shuffled``, ``paper``, or ``unknown``).
        provenance: where the data came from and with which options; JSON values.
        item_codes: how item number i + 1 is written, as codes that each become one token; None: as its number.
    """

    items: Int32Array
    offsets: Int32Array
    user_ids: list[str]
    item_ids: list[str]
    test_negatives: Int32Array | None = None
    validation_negatives: Int32Array | None = None
    explanations: dict[str, list[ExplanationRecord]] = field(default_factory=_no_explanations)
    scheme: str = UNKNOWN_SCHEME
    provenance: dict[str, Any] = field(default_factory=dict)
    item_codes: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Check the sequences and make the arrays read-only, since every view handed out shares their memory."""
        lengths = np.diff(self.offsets)
        if len(lengths) == 0 or int(self.offsets[-1]) != len(self.items):
            raise DataError("a dataset needs at least one user, and offsets that cover all items")
        if int(lengths.min()) < MIN_SEQUENCE:
            user = int(lengths.argmin()) + 1
            raise DataError(
                f"user {user} has {lengths.min()} items, leave-one-out needs at least {MIN_SEQUENCE}; drop the user"
            )
        if len(self.user_ids) != len(lengths):
            raise DataError(f"{len(self.user_ids)} raw user ids for {len(lengths)} sequences; give one per sequence")
        if int(self.items.min()) < 1 or int(self.items.max()) > len(self.item_ids):
            raise DataError(f"item numbers must lie in 1..{len(self.item_ids)}, the number of raw item ids")
        if self.item_codes is not None and len(self.item_codes) != len(self.item_ids):
            raise DataError(f"{len(self.item_codes)} items have codes, of {len(self.item_ids)}: give every item codes")
        for array in (self.items, self.offsets, self.test_negatives, self.validation_negatives):
            if array is not None:
                array.flags.writeable = False

    @property
    def user_count(self) -> int:
        """How many users there are; they are numbered 1 to this."""
        return len(self.user_ids)

    @property
    def item_count(self) -> int:
        """How many items the catalog has; they are numbered 1 to this."""
        return len(self.item_ids)

    @property
    def item_texts(self) -> list[str] | None:
        """How item number i + 1 is written: its codes side by side; None: as its number."""
        return None if self.item_codes is None else ["".join(codes) for codes in self.item_codes]

    @property
    def interaction_count(self) -> int:
        """How many interactions all sequences hold together."""
        return len(self.items)

    @property
    def lengths(self) -> Int32Array:
        """Length of each user's sequence, [users]."""
        return np.diff(self.offsets)

    def sequence(self, user: int) -> Int32Array:
        """All items of a user in order of time, [L], a read-only view.

        Raises:
            DataError: there is no user of this number.
        """
        if not 1 <= user <= self.user_count:
            raise DataError(f"user {user} is not in the dataset: users are numbered 1..{self.user_count}")
        return self.items[self.offsets[user - 1] : self.offsets[user]]

    def train_items(self, user: int) -> Int32Array:
        """The items a model may learn from, [L - 2]."""
        return self.sequence(user)[:-2]

    def validation_item(self, user: int) -> int:
        """The item held out for validation, last but one of the sequence."""
        return int(self.sequence(user)[-2])

    def test_item(self, user: int) -> int:
        """The item held out for the test, last of the sequence."""
        return int(self.sequence(user)[-1])

    def history(self, user: int, split: Split) -> Int32Array:
        """What the model may see of a user when it is trained, validated or tested; the split's target is not in it.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in get_args(Split):
            raise ConfigError(f"unknown split {split!r}: choose among {', '.join(get_args(Split))}")
        return self.sequence(user)[:-1] if split == "test" else self.train_items(user)

    @property
    def train_mask(self) -> NDArray[np.bool_]:
        """Which entries of ``items`` are for training, [interactions]."""
        return folder.training_mask(self.offsets)

    @property
    def user_of_interaction(self) -> Int32Array:
        """The user number of each entry of ``items``, [interactions]."""
        return np.repeat(np.arange(1, self.user_count + 1, dtype=np.int32), self.lengths)

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Read and check a dataset folder; only ``sequential.txt`` is required.

        Raises:
            DataError: a file is missing, damaged or contradicts another; the message has file, line and reason.
        """
        root = Path(path)
        items, offsets = folder.read_sequences(root / folder.SEQUENCES_FILE)
        user_count = len(offsets) - 1
        user_ids, item_ids = folder.read_maps(root / folder.MAPS_FILE, user_count, int(items.max()))
        scheme, provenance = _read_description(root / folder.DESCRIPTION_FILE, user_count, len(item_ids), len(items))
        explanations = _no_explanations()
        if (root / folder.EXPLANATIONS_FILE).exists():
            explanations = folder.read_explanations(root / folder.EXPLANATIONS_FILE, user_count, len(item_ids))
        negatives: list[Int32Array | None] = []
        for name, target in ((folder.TEST_NEGATIVES_FILE, 1), (folder.VALIDATION_NEGATIVES_FILE, 2)):
            file = root / name
            targets = items[offsets[1:] - target]
            negatives.append(folder.read_negatives(file, targets, len(item_ids)) if file.exists() else None)
        codes = root / folder.CODES_FILE
        item_codes = folder.read_codes(codes, len(item_ids)) if codes.exists() else None
        return cls(
            items, offsets, user_ids, item_ids, negatives[0], negatives[1], explanations, scheme, provenance, item_codes
        )

    def save(self, path: Path | str, force: bool = False, attachments: Mapping[str, str] | None = None) -> None:
        """Write the folder under a temporary name and rename it, so that it is there whole or not at all.

        Args:
            path: the folder to make.
            force: replace a dataset folder that is there already.
            attachments: further text files to put beside ours, by name.

        Raises:
            DataError: the place is taken or cannot be written to.
        """
        files = {**(attachments or {}), **self._files()}
        with whole_folder(Path(path), marker=folder.SEQUENCES_FILE, force=force) as fresh:
            for name, text in files.items():
                (fresh / name).write_text(text, encoding="utf-8")

    def _files(self) -> dict[str, str]:
        """Text of each file of the folder, by name; parts the dataset lacks have no file."""
        sequences: Sequence[Int32Array] = [self.sequence(user) for user in range(1, self.user_count + 1)]
        files = {
            folder.SEQUENCES_FILE: folder.rows_text(sequences),
            folder.MAPS_FILE: folder.maps_text(self.user_ids, self.item_ids),
            folder.DESCRIPTION_FILE: json.dumps(self._description(), indent=2, ensure_ascii=False) + "\n",
        }
        if self.item_codes is not None:
            files[folder.CODES_FILE] = folder.codes_text(self.item_codes)
        if self.test_negatives is not None:
            files[folder.TEST_NEGATIVES_FILE] = folder.rows_text(self.test_negatives)
        if self.validation_negatives is not None:
            files[folder.VALIDATION_NEGATIVES_FILE] = folder.rows_text(self.validation_negatives)
        if any(self.explanations.values()):
            files[folder.EXPLANATIONS_FILE] = folder.explanations_text(self.explanations)
        return files

    def _description(self) -> dict[str, Any]:
        return {
            "format_version": folder.FORMAT_VERSION,
            "scheme": self.scheme,
            "counts": _counts(self.user_count, self.item_count, self.interaction_count),
            "provenance": self.provenance,
        }


def _counts(users: int, items: int, interactions: int) -> dict[str, int]:
    return {"users": users, "items": items, "interactions": interactions}


def _read_description(path: Path, users: int, items: int, interactions: int) -> tuple[str, dict[str, Any]]:
    """Scheme and provenance from ``dataset.json``; foreign folders have none."""
    if not path.exists():
        return UNKNOWN_SCHEME, {}
    content = folder.read_json(path)
    version = content.get("format_version")
    if version != folder.FORMAT_VERSION:
        raise DataError(f"{path}: format version {version!r}, this podx reads {folder.FORMAT_VERSION}; prepare again")
    found, counts = _counts(users, items, interactions), content.get("counts")
    if counts != found:
        raise DataError(
            f"{path} says {counts}, the files beside it hold {found}; the folder was altered: prepare again"
        )
    scheme, provenance = content.get("scheme"), content.get("provenance", {})
    if not isinstance(scheme, str) or not isinstance(provenance, dict):
        raise DataError(f"{path}: 'scheme' must be text and 'provenance' an object; prepare the dataset again")
    return scheme, provenance
