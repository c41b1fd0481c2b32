"""Read interactions from CSV, Parquet, JSON lines (each also gzipped, Amazon 5-core included) and S3-Rec text files.

A row that cannot be used is noted with its line number and reason and left out; nothing is dropped silently.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from podx.errors import ConfigError, DataError
from podx_train.data.columns import ColumnNames, find_columns
from podx_train.data.formats import GZIP_MAGIC, InputFormat, detect_format
from podx_train.data.interactions import Interactions, RowCollector
from podx_train.data.values import SHOWN_CHARACTERS, RowError, id_text, seconds

COLUMN_PEEK = 200  # records looked at to find the columns
PROGRESS_EVERY = 4096  # rows between two reports of progress

DELIMITERS = (",", "\t", ";")

Progress = Callable[[int, int], None]  # bytes (or rows) read, and their total
Record = tuple[str, Mapping[str, Any] | RowError]  # place, and the row by column name or what is wrong with it


def read_interactions(
    path: Path, columns: ColumnNames = ColumnNames(), progress: Progress | None = None
) -> Interactions:
    """Interactions of a file whose format is found from its content and suffix.

    Args:
        path: CSV or TSV with a header, Parquet, JSON lines, S3-Rec ``.txt``; text may be gzipped.
        columns: names of the columns where they are not the usual ones.
        progress: called now and then with the bytes read so far and the size of the file.

    Raises:
        DataError: the file is missing, damaged or empty, a needed column is missing, or no row is usable.
        ConfigError: columns are named for an S3-Rec file, which has none.
    """
    kind = detect_format(path)
    if kind is InputFormat.PARQUET:
        return _read_parquet(path, columns, progress)
    if kind is InputFormat.S3REC:
        if columns != ColumnNames():
            raise ConfigError(f"{path} is a numbered sequence file, which has no columns: leave the column options out")
        return _read_s3rec(path, progress)
    with text_lines(path, progress) as lines:
        return _collect(path, RECORDS[kind](path, lines), columns)


@contextmanager
def text_lines(path: Path, progress: Progress | None) -> Iterator[Iterator[str]]:
    """Lines of a text file, gzipped or not; bytes that are not UTF-8 come as surrogates, so that the row is noted."""
    total = path.stat().st_size
    try:
        with path.open("rb") as raw:
            zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            binary: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw

            def decoded() -> Iterator[str]:
                for number, line in enumerate(binary):
                    if progress is not None and number % PROGRESS_EVERY == 0:
                        progress(raw.tell(), total)
                    text = line.decode("utf-8", errors="surrogateescape")
                    yield text.removeprefix("\ufeff") if number == 0 else text

            yield decoded()
            if progress is not None:
                progress(total, total)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} to its end: {error}; the file is damaged, fetch it again") from error


def _csv_records(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    """Rows of a delimited file with a header; a quoted field may span lines, the place is the line where it ends."""
    skipped, first = next((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    delimiter = max(DELIMITERS, key=first.count)
    try:
        header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    except csv.Error as error:
        raise DataError(f"{path}:{skipped}: no CSV header ({error}); the first line must name the columns") from error
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {reader.line_num + skipped}", RowError(f"not valid CSV ({error})")
            continue
        place = f"line {reader.line_num + skipped}"
        if not row:
            continue
        if len(row) == len(header):
            yield place, dict(zip(header, row, strict=True))
        else:
            yield place, RowError("number of fields differs from the header's", f"{len(row)} for {len(header)}")


def _json_records(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    """Objects of a JSON-lines file."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            yield place, RowError("not valid JSON", repr(line.strip()[:SHOWN_CHARACTERS]))
            continue
        yield place, row if isinstance(row, dict) else RowError("not a JSON object")


RECORDS = {InputFormat.CSV: _csv_records, InputFormat.JSON_LINES: _json_records}
"""How the lines of a file become rows, by its format."""


def _collect(path: Path, records: Iterator[Record], wanted: ColumnNames) -> Interactions:
    """Turn records into interactions; columns are sought in the first ones, as JSON records may lack optional keys."""
    rows = RowCollector()
    head = list(islice(records, COLUMN_PEEK))
    names = dict.fromkeys(name for _, record in head if not isinstance(record, RowError) for name in record)
    columns = find_columns(path, list(names), wanted) if names else {}
    for place, record in chain(head, records):
        try:
            if isinstance(record, RowError):
                raise record
            _append(rows, place, record, columns)
        except RowError as problem:
            rows.drop(problem.reason, f"{place}: {problem.detail}" if problem.detail else place)
    return rows.finish(str(path), timed=True, reviewed="review" in columns)


def _append(rows: RowCollector, place: str, record: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """Check one record and keep it."""
    user = id_text("user", record.get(columns["user"]))
    item = id_text("item", record.get(columns["item"]))
    time = seconds(record.get(columns["timestamp"]))
    review = record.get(columns["review"]) if "review" in columns else None
    if review is not None and not isinstance(review, str):
        raise RowError("review is not text", repr(review)[:SHOWN_CHARACTERS])
    try:
        (user + item + (review or "")).encode("utf-8")
    except UnicodeEncodeError:  # decoding kept such bytes as lone surrogates
        raise RowError("not UTF-8 text") from None
    rows.users.append(user)
    rows.items.append(item)
    rows.timestamps.append(time)
    rows.reviews.append(review or "")
    rows.places.append(place)


def _read_parquet(path: Path, wanted: ColumnNames, progress: Progress | None) -> Interactions:
    """A Parquet file; only the columns needed are read."""
    import polars as pl  # here, so that the other formats work where polars is slow to load

    try:
        names = list(pl.read_parquet_schema(path))
        columns = find_columns(path, names, wanted)
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(columns.values())))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read {path} as Parquet: {error}; the file is damaged, write it again") from error
    if progress is not None:
        progress(1, 2)
    records = ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True), start=1))
    result = _collect(path, records, ColumnNames(**columns))
    if progress is not None:
        progress(2, 2)
    return result


def _s3rec_line(line: str, seen: set[int]) -> list[int]:
    """User and items of one line."""
    shown = repr(line.strip()[:SHOWN_CHARACTERS])
    try:
        user, *items = [int(word) for word in line.split()]
    except ValueError:
        raise RowError("a word is not a whole number", shown) from None
    if min(user, *items, user) < 1:
        raise RowError("numbers must be at least 1", shown)
    if user in seen:
        raise RowError("the user was on an earlier line already", f"user {user}")
    if not items:
        raise RowError("a user without items", f"user {user}")
    seen.add(user)
    return [user, *items]


def _read_s3rec(path: Path, progress: Progress | None) -> Interactions:
    """A numbered sequence file, ``user item item …`` a line, in order of time."""
    rows = RowCollector()
    seen: set[int] = set()
    with text_lines(path, progress) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                user, *items = _s3rec_line(line, seen)
            except RowError as problem:
                rows.drop(problem.reason, f"{place}: {problem.detail}")
                continue
            rows.users.extend([str(user)] * len(items))
            rows.items.extend(map(str, items))
            rows.places.extend([place] * len(items))
    return rows.finish(str(path), timed=False, reviewed=False, numbered=True)
