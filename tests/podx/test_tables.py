"""Arrays in one mapped file: what was written is what is read, and damage is named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from podx.bundle.tables import PAGE_BYTES, TableFile, write_tables
from podx.errors import CatalogError

DTYPES = st.sampled_from(["<i4", "<i8", "<f4", "|b1", "|S5", ">i4"])
arrays = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=40))


@given(tables=st.dictionaries(st.text(max_size=6), arrays, max_size=5))
def test_what_was_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.bin"
    write_tables(path, tables)
    file = TableFile(path)
    assert list(file.layout) == list(tables)
    for name, array in tables.items():
        place, mapped = file.layout[name], file.map(name)
        assert place.shape == array.shape and place.length == array.nbytes and place.offset % PAGE_BYTES == 0
        assert mapped.dtype == array.dtype.newbyteorder("<") and not mapped.flags.writeable
        assert mapped.tolist() == array.tolist() or np.array_equal(mapped, array, equal_nan=True)
    assert [path.name for path in path.parent.iterdir()] == ["t.bin"]


def test_tables_lie_apart_also_behind_a_long_header(tmp_path: Path) -> None:
    tables = {f"a table with a long name, number {n}": np.full(n, n) for n in range(100)}
    write_tables(tmp_path / "t.bin", tables)
    file = TableFile(tmp_path / "t.bin")
    places = list(file.layout.values())
    assert places[0].offset > PAGE_BYTES
    assert all(a.offset + a.length <= b.offset for a, b in pairwise(places))
    assert all(np.array_equal(file.map(name), array) for name, array in tables.items())


def test_the_first_line_tells_what_there_is(tmp_path: Path) -> None:
    write_tables(tmp_path / "t.bin", {"a": np.zeros((2, 3), dtype=np.int32)})
    with (tmp_path / "t.bin").open("rb") as file:
        header = json.loads(file.readline())
    assert header["arrays"]["a"] == {"dtype": "<i4", "shape": [2, 3], "offset": PAGE_BYTES, "length": 24}


def test_arrays_of_objects_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="'a' holds Python objects"):
        write_tables(tmp_path / "t.bin", {"a": np.array([None])})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.bin"
    write_tables(path, {"a": np.arange(3)})

    def full_disk(array: np.ndarray) -> np.ndarray:
        raise OSError("no space left")

    monkeypatch.setattr("podx.bundle.tables.np.ascontiguousarray", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tables(path, {"a": np.arange(9)})
    assert TableFile(path).map("a").tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["t.bin"]


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    write_tables(tmp_path / "t.bin", {"a": np.arange(3)})
    with pytest.raises(CatalogError, match="no table 'b'"):
        TableFile(tmp_path / "t.bin").map("b")


def header(**changes: object) -> bytes:
    place = {"dtype": "<i4", "shape": [2], "offset": PAGE_BYTES, "length": 8, **changes}
    content = {"format": "podx-tables", "format_version": 1, "arrays": {"a": place}}
    return json.dumps(content).encode().ljust(PAGE_BYTES - 1) + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"format": "podx-tables", "format_version": 99, "arrays": {}}\n',
        b'{"format": "podx-tables", "format_version": 1, "arrays": []}\n',
        header(dtype="|O", length=16),
        header(dtype="nonsense"),
        header(offset=8),
        header(offset=0),
        header(offset=-PAGE_BYTES),
        header(shape=[-2]),
        header(shape=[3]),
        header(length=9),
    ],
)
def test_what_is_no_table_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(content + bytes(PAGE_BYTES))
    with pytest.raises(CatalogError, match=r"t\.bin is not a table file written by podx"):
        TableFile(path)


def test_the_hand_made_header_is_read_when_it_is_right(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(header() + np.array([7, 8], dtype="<i4").tobytes().ljust(PAGE_BYTES))
    assert TableFile(tmp_path / "t.bin").map("a").tolist() == [7, 8]


@pytest.mark.parametrize("kept", [0, 10, PAGE_BYTES, 2 * PAGE_BYTES - 1])
def test_a_file_cut_short_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "t.bin"
    write_tables(path, {"a": np.arange(3)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CatalogError, match=r"t\.bin is (cut short|not a table file)"):
        TableFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"t\.bin cannot be read"):
        TableFile(tmp_path / "t.bin")
