"""Files from strangers: what is plain comes out, nothing runs, and what is wrong is a CheckpointError that helps."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from podx.errors import CheckpointError
from podx_train.published import safe_pickle
from podx_train.published.safe_pickle import Inert, Name, read_pickle
from podx_train.published.saved_module import read_module
from tests.train.saved_pod import Payload


def read(content: bytes) -> Any:
    return read_pickle(content, {}, lambda value: ("persistent", value), "a file")


def no_storage(_: Any) -> Any:
    raise AssertionError("no persistent id in these")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=3) | st.integers(-5, 5), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(plain, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_ordered_dictionaries_sets_bytes_and_loops() -> None:
    calls = {"collections.OrderedDict": dict}
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(read_pickle(pickle.dumps(ordered, 2), calls, no_storage, "x").items()) == [("b", 1), ("a", 2)]
    assert sorted(read(pickle.dumps({3, 4}, 4))) == [3, 4]
    assert sorted(read(pickle.dumps({3, 4}, 2)).arguments[0]) == [3, 4]
    assert read(pickle.dumps(frozenset({5}), 4)) == [5]
    assert isinstance(read(pickle.dumps(b"ab", 2)), Inert)
    loop: list[Any] = []
    loop.append(loop)
    found = read(pickle.dumps(loop, 4))
    assert found[0] is found
    around: list[Any] = [1, 2, 3, 4]
    around.append((1, 2, 3, 4, around))
    assert read(pickle.dumps(around, 4))[4][4][0] == 1


class Thing:
    """An object whose class reads as code of someone else."""

    def __init__(self) -> None:
        self.size = 4

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("a method of the pickled class ran")


def test_objects_stay_inert() -> None:
    found = read(pickle.dumps([Thing(), Thing], 4))
    assert isinstance(found[0], Inert)
    assert found[0].state == {"size": 4}
    assert isinstance(found[1], Name)
    assert found[1].name == "Thing"
    assert str(found[1]) == str(found[0].of)


def canary(folder: Path) -> str:
    return f"touch {folder / 'ran'}"


def evil_payloads(folder: Path) -> dict[str, Payload]:
    return {
        "system": Payload(os.system, canary(folder)),
        "popen": Payload(os.popen, canary(folder)),
        "subprocess": Payload(subprocess.check_output, ["touch", str(folder / "ran")]),
        "eval": Payload(eval, f"open({str(folder / 'ran')!r}, 'w')"),
        "exec": Payload(exec, f"open({str(folder / 'ran')!r}, 'w')"),
        "import": Payload(__import__, "antigravity"),
        "open": Payload(builtins.open, str(folder / "ran"), "w"),
        "setattr": Payload(setattr, read_module, "ran", True),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", list(evil_payloads(Path("x"))))
def test_nothing_is_run(kind: str, protocol: int, tmp_path: Path) -> None:
    harm = evil_payloads(tmp_path)[kind]
    before = set(sys.modules)
    for value in (harm, {"deep": [(1, harm)]}):
        with pytest.raises(CheckpointError, match=r"asks to run .* Nothing was run"):
            read(pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()
    assert "antigravity" not in set(sys.modules) - before
    assert not hasattr(read_module, "ran")


def test_functions_of_other_packages_stay_names(tmp_path: Path) -> None:
    saved = tmp_path / "inner.pt"
    torch.save({"a": 1}, saved)
    found = read(pickle.dumps(Payload(torch.load, str(saved)), 2))
    assert isinstance(found, Inert)
    assert (str(found.of), found.arguments) == ("torch.serialization.load", (str(saved),))
    through = Payload(functools.partial, os.system, canary(tmp_path))
    assert isinstance(read(pickle.dumps(through, 4)), Inert)  # made, never called
    assert not (tmp_path / "ran").exists()


def test_what_is_made_cannot_be_called(tmp_path: Path) -> None:
    """getattr(os, "system")("…"): the first call stays inert, the second has nothing to call."""
    text = canary(tmp_path).encode()
    code = b"\x80\x02cbuiltins\ngetattr\ncbuiltins\n__import__\nX\x06\x00\x00\x00system\x86RX"
    code += len(text).to_bytes(4, "little") + text + b"\x85R."
    pickletools.dis(code, io.StringIO())
    with pytest.raises(CheckpointError, match="no function"):
        read(code)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"garbage",
        b"\x80\x02R.",
        b"\x80\x02]}b.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02K\x01(K\x02e.",
        b"\x80\x02h\x05.",
        b"\x80\x02t.",
        b"\x80\x02\x86.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02\x81.",
        b"\x80\x04K\x01K\x02\x93.",
        b"\x80\x02(ios\nsystem\n.",
        b"\x80\x02(cos\nsystem\no.",
        b"\x80\x02\x82\x01.",
        b"Ppersistent\n.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
        b"\x80\x02cos\n\xff\xfe\n.",
    ],
)
def test_damaged_pickles(code: bytes) -> None:
    if code == b"\x80\x02.":
        assert read(code) is None
        return
    with pytest.raises(CheckpointError, match="a file"):
        read(code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pickletools, on odd escapes in altered text
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_pickles_end_in_our_error_or_in_data(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"a": [1, (2, "x")], "b": Name("m", "n"), "c": torch.Size([1, 2])}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(content))
    except CheckpointError as error:
        assert str(error).startswith("a file")


def test_deep_and_wide_structures_end() -> None:
    depth = 100_000
    found = read(b"\x80\x02)" + b"\x85" * depth + b".")
    for _ in range(1000):
        (found,) = found
    doubled = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 200  # 2 ** 200 leaves if one were to walk or hash them
    assert read(doubled + b"}h\x00K\x01s.") == {}  # as a key they are left out


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="at most 100"):
        read(pickle.dumps("x" * 200))
    monkeypatch.setattr(safe_pickle, "MAX_INSTRUCTIONS", 20)
    with pytest.raises(CheckpointError, match="more than 20 instructions"):
        read(b"\x80\x02" + b"N" * 40 + b".")
