"""``podx ids`` and the files it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from podx import cli
from podx.bundle.catalog import IdTable
from podx.bundle.id_lines import write_ids
from podx.errors import CatalogError
from tests.podx.bundles import ITEM_IDS, USER_IDS


def test_line_n_is_number_n(tmp_path: Path) -> None:
    write_ids(tmp_path / "ids", IdTable.of(["b", "ü", "a"], "item"), "item")
    assert (tmp_path / "ids").read_bytes() == "b\nü\na\n".encode()


def test_an_id_with_a_line_break_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("before")
    with pytest.raises(CatalogError, match="of user 2 holds a line break"):
        write_ids(path, IdTable.of(["a", "b\nc"], "user"), "user")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_command_writes_what_is_asked_for(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, users = tmp_path / "items.txt", tmp_path / "users.txt"
    monkeypatch.setattr(sys, "argv", ["podx", "ids", str(bundle_path), "--items", str(items), "--users", str(users)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert items.read_text(encoding="utf-8").splitlines() == ITEM_IDS
    assert users.read_text(encoding="utf-8").splitlines() == USER_IDS
