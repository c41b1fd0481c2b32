"""Arrays in one file that can be mapped into memory, by this runtime and by ONNX Runtime alike.

The file begins with one line of JSON that names each array with its type, shape and place; ``head -1`` prints it. The
line is filled up to whole pages, and so is each array. A reader therefore maps what it needs and copies nothing, and a
graph can name the same bytes as an initializer's external data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.atomic import replace_file
from podx.errors import CatalogError

PAGE_BYTES = 4096
FORMAT = "podx-tables"
FORMAT_VERSION = 1
_HEADER_LIMIT = 1 << 20
"""No header is longer; a file without a line break is not read to its end."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TablePlace:
    """Where an array lies. ``offset`` and ``length`` in bytes; the offset is a multiple of :data:`PAGE_BYTES`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


def write_tables(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to one file, which appears under its name only when it is complete.

    Args:
        path: the file; one that is there is replaced.
        arrays: numbers, truth values or fixed-length bytes, of any shape.

    Raises:
        CatalogError: an array holds Python objects.
        OSError: the file cannot be written.
    """
    stored = {name: _stored(name, array) for name, array in arrays.items()}

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(_header(stored))
            for array in stored.values():
                np.ascontiguousarray(array).tofile(file)
                file.write(bytes(-file.tell() % PAGE_BYTES))

    replace_file(path, write)


def _stored(name: str, array: Array) -> Array:
    """The array with little-endian numbers."""
    if array.dtype.hasobject:
        raise CatalogError(f"the table {name!r} holds Python objects: give it numbers or fixed-length bytes")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _header(arrays: Mapping[str, Array]) -> bytes:
    """The first line and what fills it up to whole pages."""
    start = 0
    line = b"\n"
    while len(line) > start:  # the offsets named in the header hang on its own length
        start += PAGE_BYTES
        line = _header_text(arrays, start) + b"\n"
    return line.ljust(start)


def _header_text(arrays: Mapping[str, Array], start: int) -> bytes:
    places = {}
    for name, array in arrays.items():
        places[name] = {"dtype": array.dtype.str, "shape": array.shape, "offset": start, "length": array.nbytes}
        start = _whole_pages(start + array.nbytes)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "arrays": places}
    return json.dumps(content, ensure_ascii=True).encode()


def _whole_pages(length: int) -> int:
    return -(-length // PAGE_BYTES) * PAGE_BYTES


class TableFile:
    """The arrays that :func:`write_tables` wrote, each mapped when it is asked for.

    Attributes:
        path: the file.
        layout: place of each array by name.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CatalogError: the file is missing, damaged, or too short for what its header names.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                line = file.readline(_HEADER_LIMIT)
            size = path.stat().st_size
        except OSError as error:
            raise CatalogError(f"{path} cannot be read ({error}): copy it anew, or export again") from error
        self.layout: dict[str, TablePlace] = _read_header(line, size, path)

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))  # a plain view: indexing one is quicker

    def place(self, name: str) -> TablePlace:
        """Where an array lies.

        Raises:
            CatalogError: the file has no such array.
        """
        place = self.layout.get(name)
        if place is None:
            raise CatalogError(f"{self.path} has no table {name!r}: export again with this version of podx")
        return place

    def map(self, name: str) -> Array:
        """An array over the mapped file, read-only; its pages are read from the disk when they are looked at.

        Raises:
            CatalogError: the file has no such array.
        """
        place = self.place(name)
        taken = self._bytes[place.offset : place.offset + place.length]
        return taken.view(place.dtype).reshape(place.shape)


def _read_header(line: bytes, size: int, path: Path) -> dict[str, TablePlace]:
    try:
        content = json.loads(line)
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']!r}, version {content['format_version']!r}")
        layout = {str(name): _read_place(place) for name, place in content["arrays"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{path} is not a table file written by podx ({error}): export again") from error
    for name, place in layout.items():
        if _whole_pages(place.offset + place.length) > size:
            raise CatalogError(f"{path} is cut short: the table {name!r} ends beyond it: copy it anew, or export again")
    return layout


def _read_place(content: Mapping[str, Any]) -> TablePlace:
    dtype, shape = np.dtype(content["dtype"]), tuple(int(size) for size in content["shape"])
    offset, length = int(content["offset"]), int(content["length"])
    whole = length == math.prod(shape) * dtype.itemsize
    if dtype.hasobject or offset < PAGE_BYTES or offset % PAGE_BYTES or min(shape, default=0) < 0 or not whole:
        raise ValueError(f"a table of type {dtype}, shape {shape}, {length} bytes at {offset} cannot be")
    return TablePlace(dtype, shape, offset, length)
