"""The users a model knows, and the items each is known to have."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import IdTable
from podx.errors import CatalogError

_WITHOUT_VECTORS = "without_vectors"


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
        arrays = _read_arrays(path, ("raw_ids", "items", "offsets"))
        without = arrays.get(_WITHOUT_VECTORS)
        return cls(IdTable(arrays["raw_ids"], "user"), arrays["items"], arrays["offsets"], without)


def _read_arrays(path: Path, needed: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``.npz`` file; no pickle is read.

    Raises:
        CatalogError: the file is missing, damaged, or lacks a needed array.
    """
    try:
        with zipfile.ZipFile(path):  # numpy reads other formats too, and some of them as something else
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise CatalogError(f"{path} is not a table written by podx ({error}): copy it anew, or export again") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise CatalogError(f"{path} is not a table written by podx (it lacks {', '.join(missing)}): export again")
    return arrays
