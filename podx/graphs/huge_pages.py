"""What a graph holds, in huge pages, where the system has them (Linux 6.1 and later).

A run for one user waits for weights from memory, and with pages of 4 KB for their addresses, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HUGE_PAGE = 1 << 21
_MAPS = Path("/proc/self/maps")
_COLLAPSE = 25  # of madvise: gather what lies there in one page, now


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
    for line in _MAPS.read_text(encoding="utf-8").splitlines() if _MAPS.exists() else ():
        place, access, _, _, file, *name = line.split(maxsplit=5)
        if access == "rw-p" and file == "0" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in place.split("-"))
            blocks.update(range(-(-start // HUGE_PAGE), end // HUGE_PAGE))
    return blocks
