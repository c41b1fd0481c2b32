"""What is taken inside the block lies in huge pages afterwards, and holds what it held."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from podx.graphs import huge_pages
from podx.graphs.huge_pages import HUGE_PAGE, in_huge_pages

ROLLUP = Path("/proc/self/smaps_rollup")
SIZE = 8 * HUGE_PAGE


def huge_kilobytes() -> int:
    """Of this process."""
    (line,) = (line for line in ROLLUP.read_text(encoding="utf-8").splitlines() if line.startswith("AnonHugePages"))
    return int(line.split()[1])


def written() -> mmap.mmap:
    """Private memory of its own, not empty."""
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = np.arange(SIZE, dtype=np.uint8).tobytes()
    return memory


@pytest.mark.skipif(not ROLLUP.exists(), reason="only Linux says how much of its memory lies in huge pages")
def test_memory_taken_inside_lies_in_huge_pages() -> None:
    outside = written()
    before = huge_kilobytes()
    with in_huge_pages():
        inside = written()
    if huge_kilobytes() == before:
        pytest.skip("this system has no huge pages to give")
    assert 0 < huge_kilobytes() - before <= SIZE // 1024
    assert outside[:] == inside[:] == np.arange(SIZE, dtype=np.uint8).tobytes()


def test_systems_without_them_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_MAPS", tmp_path / "none")
    with in_huge_pages():
        memory = written()
    assert memory[:4] == b"\0\1\2\3"
