"""Tell what an input file is from its magic bytes, its first lines and its suffix."""

from __future__ import annotations

import gzip
import zlib
from enum import StrEnum
from pathlib import Path

from podx.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
SNIFF_BYTES = 65_536
SNIFF_LINES = 5
CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


class InputFormat(StrEnum):
    """What an input file is."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON_LINES = "jsonl"
    S3REC = "s3rec"


def detect_format(path: Path) -> InputFormat:
    """The format of a file, from its magic bytes, its suffix and its first lines.

    Raises:
        DataError: the file is missing, empty or unreadable.
    """
    try:
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
        if head.startswith(GZIP_MAGIC):
            with gzip.open(path) as file:
                head = file.read(SNIFF_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; check the path and the file") from error
    if head.startswith(PARQUET_MAGIC):
        return InputFormat.PARQUET
    lines = [line for line in head.decode("utf-8", errors="replace").splitlines() if line.strip()][:SNIFF_LINES]
    if not lines:
        raise DataError(f"{path} is empty: give a file with interactions")
    return _text_format(path, lines)


def _text_format(path: Path, lines: list[str]) -> InputFormat:
    """The format of a text file that starts with these lines; some of them may be malformed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    starts = [line.lstrip("\ufeff \t")[0] for line in lines]
    if any(suffix in CSV_SUFFIXES for suffix in suffixes):
        return InputFormat.CSV
    if starts[0] == "[":
        raise DataError(f"{path} starts with '[': give JSON lines, one object per line, not one JSON array")
    if "{" in starts or any(suffix in JSON_SUFFIXES for suffix in suffixes):
        return InputFormat.JSON_LINES
    numeric = sum(all(word.isdigit() for word in line.split()) for line in lines)
    return InputFormat.S3REC if 2 * numeric >= len(lines) else InputFormat.CSV
