"""Files appear whole under their name, or what was there stays."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from podx import atomic


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    atomic.write_text(path, "früher\n")
    atomic.write_bytes(path, b"now\n")
    assert path.read_bytes() == b"now\n"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & stat.S_IRUSR


@pytest.mark.parametrize("before", [None, "what was there"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "result.txt"
    if before is not None:
        atomic.write_text(path, before)

    def half(partial: Path) -> None:
        partial.write_text("only ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.replace_file(path, half)
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else [path.name])
    assert before is None or path.read_text() == before
