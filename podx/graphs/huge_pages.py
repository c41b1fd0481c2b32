"""What a graph holds, in huge pages, where the system has them (Linux 6.1 and later).

A run for one user reads every weight a few times at most, and with pages of 4 KB it waits for their addresses, too.
ONNX Runtime has no setting for it, and that of the C library is one of the whole process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HUGE_PAGE = 1 << 21
"""Bytes."""

_MAPS = Path("/proc/self/maps")
_COLLAPSE = 25
"""Of madvise: gather what lies there in one page, now. Only how memory is addressed changes."""


@contextmanager
def in_huge_pages() -> Iterator[None]:
    """Put memory that is taken inside, and kept, into huge pages; where the system has none, it stays as it is."""
    before = _blocks()
    yield
    for block in _blocks() - before:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(block * HUGE_PAGE), ctypes.c_size_t(HUGE_PAGE), _COLLAPSE)


def _blocks() -> set[int]:
    """Numbers of the pages of that size that the process could have: whole ones of memory that is no file's."""
    blocks: set[int] = set()
    if sys.platform != "linux" or not _MAPS.exists():
        return blocks
    for line in _MAPS.read_text(encoding="utf-8").splitlines():
        place, access, _, _, file, *name = line.split(maxsplit=5)
        if access == "rw-p" and file == "0" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in place.split("-"))
            blocks.update(range(-(-start // HUGE_PAGE), end // HUGE_PAGE))
    return blocks
