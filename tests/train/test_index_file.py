"""Codes of items from a file: how keys are read, what is refused, and how items are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from podx.errors import ConfigError, DataError
from podx_train.cli.data import app
from podx_train.codes.index_file import MAX_CODES, IndexKeys, disambiguate, read_index
from podx_train.data.dataset import Dataset

NAMES = ["pen", "cup", "hat"]


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def index(*keys: str) -> dict[str, list[str]]:
    return {key: ["<a_1>", f"<b_{place}>"] for place, key in enumerate(keys)}


def places(codes: list[tuple[str, ...]]) -> list[str]:
    return [own[-1] for own in codes]


def test_keys_are_numbers_from_0_or_raw_ids(tmp_path: Path) -> None:
    by_number = write(tmp_path / "n.json", index("2", "0", "1"))
    assert places(read_index(by_number, NAMES)) == ["<b_1>", "<b_2>", "<b_0>"]
    by_name = write(tmp_path / "r.json", index("hat", "pen", "cup", "dropped"))
    assert places(read_index(by_name, NAMES)) == ["<b_1>", "<b_2>", "<b_0>"]


def test_keys_that_two_readings_fit_must_be_named(tmp_path: Path) -> None:
    """A file for numbered data, which the dataset has numbered anew: silence would swap the items' codes."""
    path = write(tmp_path / "x.json", index("0", "1", "2"))
    raw = ["3", "1", "2"]
    with pytest.raises(DataError, match=r"raw-less-1 or number-less-1.*--keys"):
        read_index(path, raw)
    assert places(read_index(path, raw, IndexKeys.RAW_LESS_1)) == ["<b_2>", "<b_0>", "<b_1>"]
    assert places(read_index(path, raw, IndexKeys.NUMBER_LESS_1)) == ["<b_0>", "<b_1>", "<b_2>"]
    assert places(read_index(path, ["1", "2", "3"])) == ["<b_0>", "<b_1>", "<b_2>"]


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (index("0", "1"), IndexKeys.AUTO, "2 keys are neither"),
        (index("0", "1"), IndexKeys.NUMBER_LESS_1, r"no codes for 1 of 3 items.*'hat' \(key '2'\)"),
        (index("0", "1", "2"), IndexKeys.RAW_LESS_1, "raw item ids that are numbers"),
        (index("pen", "cup"), IndexKeys.RAW, "first being 'hat'"),
        ({**index("0", "1"), "2": []}, IndexKeys.AUTO, "item '2' must have a list of at least one code"),
        ({**index("0", "1"), "2": "<a_1>"}, IndexKeys.AUTO, "item '2' must have a list"),
        ({**index("0", "1"), "2": ["<a_1>", 7]}, IndexKeys.AUTO, "item '2': a code must be text, found 7"),
        ({**index("0", "1"), "2": [""]}, IndexKeys.AUTO, "item '2': a code must be text"),
        ({**index("0", "1"), "2": ["<a 1>"]}, IndexKeys.AUTO, "item '2': code '<a 1>' has white space"),
        ({**index("0", "1"), "2": ["a" * 41]}, IndexKeys.AUTO, "more than 40 characters"),
        ({**index("0", "1"), "2": ["<a_1>"] * 9}, IndexKeys.AUTO, "item '2' has 9 codes, the most is 8"),
        ([1], IndexKeys.AUTO, "must hold a JSON object"),
    ],
)
def test_faults_name_file_and_item(tmp_path: Path, content: object, keys: IndexKeys, message: str) -> None:
    path = write(tmp_path / "faulty.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_index(path, NAMES, keys)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--file"):
        read_index(tmp_path / "none.json", NAMES)


code = st.sampled_from(["<a_0>", "<a_1>", "<x_0>", "<x_1>", "<xx_0>"])


@given(st.lists(st.lists(code, min_size=1, max_size=3).map(tuple), max_size=30))
def test_disambiguated_items_differ_and_only_colliding_ones_change(codes: list[tuple[str, ...]]) -> None:
    result = disambiguate(codes)
    assert len(set(result)) == len(codes)
    taken = {own for given_codes in codes for own in given_codes}
    for before, after in zip(codes, result, strict=True):
        if codes.count(before) == 1:
            assert after == before
        else:
            assert after[:-1] == before
            assert after[-1] not in taken


def test_further_codes_count_within_the_colliding_items() -> None:
    codes = [("<a_1>",), ("<b_1>",), ("<a_1>",), ("<b_1>",), ("<c_1>",)]
    assert disambiguate(codes) == [
        ("<a_1>", "<x_0>"),
        ("<b_1>", "<x_0>"),
        ("<a_1>", "<x_1>"),
        ("<b_1>", "<x_1>"),
        ("<c_1>",),
    ]


def test_no_room_for_a_further_code() -> None:
    with pytest.raises(DataError, match="item number 1 has the same 8 codes"):
        disambiguate([("<a_1>",) * MAX_CODES] * 2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["index", *(str(argument) for argument in arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    items = np.array([1, 2, 3, 1, 2, 3, 2, 1], dtype=np.int32)
    Dataset(items, np.array([0, 4, 8], dtype=np.int32), ["u", "v"], NAMES).save(tmp_path / "data")
    return tmp_path / "data"


def test_command_takes_codes_from_a_file(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", {"cup": ["<a_1>"], "hat": ["<a_2>", "<b_1>"], "pen": ["<a_1>"]})
    result = run(data, "--out", tmp_path / "coded", "--file", file)
    assert result.exit_code == 0, result.output
    coded = Dataset.load(tmp_path / "coded")
    assert coded.item_codes == (("<a_1>", "<x_0>"), ("<a_1>", "<x_1>"), ("<a_2>", "<b_1>"))
    assert coded.provenance["index"]["name"] == "x.json"
    assert len(coded.provenance["index"]["sha256"]) == 64
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in result.output.splitlines() if "│" in line]
    assert ["items that got a further code to differ", "2"] in cells
    assert ["distinct codes", "5"] in cells


def test_command_needs_one_source_of_codes(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", index(*NAMES))
    for sources in ((), ("--collaborative", "--file", file)):
        result = run(data, "--out", tmp_path / "coded", *sources)
        assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "coded").exists()


def test_a_published_index_reads(shared_data: Path) -> None:
    path = shared_data / "beauty_semantic_ids.json"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    codes = read_index(path, [str(number) for number in range(1, 12_102)])
    assert len(set(codes)) == 12_088
    assert len(set(disambiguate(codes))) == 12_101
