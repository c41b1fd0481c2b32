"""The users a model knows, and the items each is known to have."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import IdTable
from podx.bundle.tables import TableFile, write_tables
from podx.errors import CatalogError

_ITEMS, _OFFSETS, _WITHOUT_VECTORS = "users.items", "users.offsets", "users.without_vectors"


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
        """Write as tables (:mod:`podx.bundle.tables`)."""
        without = {} if self.without_vectors is None else {_WITHOUT_VECTORS: self.without_vectors}
        write_tables(path, {**self.ids.tables(), _ITEMS: self.items, _OFFSETS: self.offsets, **without})

    @classmethod
    def load(cls, path: Path) -> UserTable:
        """Map what :meth:`save` wrote; the disk is read where the arrays are looked at.

        Raises:
            CatalogError: the file is not such a table.
        """
        tables = TableFile(path)
        without = tables.map(_WITHOUT_VECTORS) if _WITHOUT_VECTORS in tables.layout else None
        users = cls(IdTable.read(tables), tables.map(_ITEMS), tables.map(_OFFSETS), without)
        if len(users.offsets) != len(users) + 1 or users.offsets[-1] != len(users.items):
            raise CatalogError(f"the tables in {path} do not fit together: copy it anew, or export again")
        return users

    @classmethod
    def load_archive(cls, path: Path) -> UserTable:
        """Read the ``.npz`` that bundles used to have; no pickle is read.

        Raises:
            CatalogError: the file is not such an archive.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                without = arrays.get("without_vectors")
                return cls(IdTable(arrays["raw_ids"], "user"), arrays["items"], arrays["offsets"], without)
        except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise CatalogError(f"{path} is not a table written by podx ({error}): export again") from error
