"""Who gets a list: the users of Parquet files or of the bundle, in parts of a fixed size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from podx.bundle.users import UserTable
from podx.errors import DataError
from podx.scoring.scorer import USER, check_columns

READ_BUFFER = 1 << 20
"""Bytes of a column that are read at a time; without, all of a row group would be."""


class KnownUsers:
    """All users of a bundle.

    Attributes:
        digest: None, for the bundle's version stands for them. rows: how many there are.
    """

    digest = None

    def __init__(self, users: UserTable, part_users: int) -> None:
        self._ids, self._part_users = users.ids, part_users
        self.rows = len(users)

    def part(self, number: int) -> pa.Table:
        """The users of a part, 0 being the first."""
        first = number * self._part_users + 1
        numbers = range(first, min(first + self._part_users, self.rows + 1))
        return pa.table({USER: pa.array(map(self._ids.raw, numbers), pa.string())})


class UserFiles:
    """The rows of a Parquet file, or of all Parquet files of a folder in the order of their names.

    They are read as a stream; to ask for parts in ascending order costs one pass, in which row groups that nobody asks
    for are left out.

    Attributes:
        rows: how many there are.

    Raises:
        DataError: there is no such file, it is not Parquet, or has columns that :class:`podx.scoring.Scorer` does not
            read.
    """

    def __init__(self, path: Path, part_users: int) -> None:
        self._part_users = part_users
        self._paths = sorted(path.glob("[!._]*.parquet")) if path.is_dir() else [path]
        if not self._paths:
            raise DataError(f"there is no Parquet file in {path}: give a file, or a folder of *.parquet")
        with _named(path):
            self._files = [pq.ParquetFile(each, buffer_size=READ_BUFFER) for each in self._paths]
        self._schema = self._files[0].schema_arrow
        check_columns(self._schema)
        for file, each in zip(self._files, self._paths, strict=True):
            if not file.schema_arrow.equals(self._schema):
                raise DataError(f"{each} has other columns than {self._paths[0]}: write all files of a folder alike")
        sizes = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.num_row_groups)
        ]
        self._groups = [(file, group, rows) for file, group, rows in sizes if rows]
        self.rows = sum(rows for *_, rows in self._groups)
        self._path = path
        self._stream: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None  # of the batch that was read last
        self._position = self._group_end = 0

    @property
    def digest(self) -> str:
        """What the files hold, as a sha256."""
        total = hashlib.sha256()
        for path in self._paths:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def part(self, number: int) -> pa.Table:
        """The rows of a part, 0 being the first.

        Raises:
            DataError: the file is damaged.
        """
        first = number * self._part_users
        with _named(self._path):
            if self.rows and not self._position <= first < self._group_end:
                self._start(first)
            for _ in self._next(first - self._position):
                pass
            return pa.Table.from_batches(self._next(min(self._part_users, self.rows - first)), self._schema)

    def _start(self, row: int) -> None:
        """Go to the row group that holds a row."""
        place = before = 0
        while row >= before + self._groups[place][-1]:
            before += self._groups[place][-1]
            place += 1
        self._position, self._stream, self._rest = before, self._batches(place), None

    def _batches(self, place: int) -> Iterator[pa.RecordBatch]:
        """Batches from a row group on, none across groups."""
        for file, group, rows in self._groups[place:]:
            self._group_end = self._position + rows
            yield from file.iter_batches(self._part_users, row_groups=[group])

    def _next(self, rows: int) -> Iterator[pa.RecordBatch]:
        """So many rows from the present position on."""
        while rows > 0:
            batch = next(self._stream) if self._rest is None else self._rest
            some = batch.slice(0, rows)
            self._rest = batch.slice(len(some)) if len(some) < len(batch) else None
            self._position += len(some)
            rows -= len(some)
            yield some


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of pyarrow become ours."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
