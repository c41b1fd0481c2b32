"""The dataset folder: round trips, splits, tolerance to foreign folders, and every way it can be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from podx.atomic import whole_folder
from podx.errors import ConfigError, DataError
from podx_train.data.dataset import UNKNOWN_SCHEME, Dataset, ExplanationRecord

SEQUENCES = "1 1 2 3 4\n2 3 1 5\n"
RECORD = {"user": 1, "item": 1, "explanation": "the strap is soft", "feature": "strap"}


def make_dataset() -> Dataset:
    return Dataset(
        items=np.array([1, 2, 3, 4, 3, 1, 5], dtype=np.int32),
        offsets=np.array([0, 4, 7], dtype=np.int32),
        user_ids=["anna", "böb"],
        item_ids=["a", "b", "c", "d", "e", "f"],
        test_negatives=np.array([[5, 6], [2, 4]], dtype=np.int32),
        validation_negatives=np.array([[6, 5], [4, 6]], dtype=np.int32),
        explanations={"train": [ExplanationRecord(1, 1, "the strap is soft", "strap")], "val": [], "test": []},
        scheme="train-first",
        provenance={"source": {"name": "x.csv"}},
    )


def foreign_folder(path: Path, sequences: str = SEQUENCES) -> Path:
    path.mkdir(exist_ok=True)
    (path / "sequential.txt").write_text(sequences, encoding="utf-8")
    return path


def test_save_and_load_give_the_same_dataset(tmp_path: Path) -> None:
    before = make_dataset()
    before.save(tmp_path / "data")
    after = Dataset.load(tmp_path / "data")
    for name in ("items", "offsets", "test_negatives", "validation_negatives"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == np.int32
    for name in ("user_ids", "item_ids", "explanations", "scheme", "provenance"):
        assert getattr(after, name) == getattr(before, name)
    assert (tmp_path / "data" / "sequential.txt").read_text() == SEQUENCES
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_leave_one_out_views() -> None:
    dataset = make_dataset()
    assert (dataset.user_count, dataset.item_count, dataset.interaction_count) == (2, 6, 7)
    assert dataset.sequence(1).tolist() == [1, 2, 3, 4]
    assert dataset.train_items(1).tolist() == [1, 2]
    assert (dataset.validation_item(1), dataset.test_item(1)) == (3, 4)
    assert dataset.history(1, "train").tolist() == [1, 2]
    assert dataset.history(1, "validation").tolist() == [1, 2]
    assert dataset.history(1, "test").tolist() == [1, 2, 3]
    assert dataset.items[dataset.train_mask].tolist() == [1, 2, 3]
    assert dataset.user_of_interaction.tolist() == [1, 1, 1, 1, 2, 2, 2]


def test_views_cannot_change_the_dataset() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_dataset().sequence(1)[0] = 9


@pytest.mark.parametrize("user", [0, 3, -1])
def test_unknown_user_is_named(user: int) -> None:
    with pytest.raises(DataError, match=rf"user {user} is not in the dataset.*1\.\.2"):
        make_dataset().sequence(user)


def test_unknown_split_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'val'.*train, validation, test"):
        make_dataset().history(1, "val")  # type: ignore[arg-type]


def test_bare_foreign_folder_loads(tmp_path: Path) -> None:
    dataset = Dataset.load(foreign_folder(tmp_path / "pod", "2 3 1 5\n\n1 1 2 3 4\n"))
    assert dataset.sequence(1).tolist() == [1, 2, 3, 4]
    assert dataset.user_ids == ["1", "2"]
    assert dataset.item_ids == ["1", "2", "3", "4", "5"]
    assert dataset.test_negatives is None
    assert dataset.validation_negatives is None
    assert dataset.explanations == {"train": [], "val": [], "test": []}
    assert dataset.scheme == UNKNOWN_SCHEME


def test_foreign_maps_without_reverse_direction_load(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "pod")
    maps = {"id2user": {"1": "u", "2": "v"}, "id2item": {str(n): f"i{n}" for n in range(1, 7)}}
    (folder / "datamaps.json").write_text(json.dumps(maps))
    (folder / "explanation.json").write_text(json.dumps({"train": [{**RECORD, "extra": 1}], "val": [], "test": []}))
    (folder / "negative.txt").write_text("2 2 4\n1 5 6\n")
    dataset = Dataset.load(folder)
    assert dataset.item_count == 6
    assert dataset.explanations["train"] == [ExplanationRecord(**RECORD)]
    assert dataset.test_negatives is not None
    assert dataset.test_negatives.tolist() == [[5, 6], [2, 4]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 1 2 3\n2 1 x 3\n", r"sequential\.txt:2: every word must be a whole number"),
        ("1 1 2 3\n2 1 0 3\n", r":2: numbers must lie in 1\.\..*found 0"),
        ("1 1 2 3\n2 1 99999999999 3\n", r":2: numbers must lie in"),
        ("1 1 2 3\n2 1 2\n", r":2: user 2 has 2 items.*at least 3"),
        ("1 1 2 3\n1 1 2 3\n", r":2: user 1 was on line 1 already"),
        ("1 1 2 3\n3 1 2 3\n", r"user 2 has no line"),
        ("\n", "holds no users"),
    ],
)
def test_malformed_sequences_name_line_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Dataset.load(foreign_folder(tmp_path / "bad", text))


def test_missing_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="podx data prepare"):
        Dataset.load(tmp_path / "nowhere")


def test_sequences_that_are_not_text_are_named(tmp_path: Path) -> None:
    (foreign_folder(tmp_path / "bad") / "sequential.txt").write_bytes(b"1 1 2 \xff\n")
    with pytest.raises(DataError, match=r"cannot read .*sequential\.txt"):
        Dataset.load(tmp_path / "bad")


@pytest.mark.parametrize("file", ["negative.txt", "validation_negative.txt"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 5 6\n", "has 1 users, the sequences have 2"),
        ("1 5 6\n2 4\n", ":2: 1 items where other lines have 2"),
        ("1 5 7\n2 4 6\n", ":1: item 7 is not in the catalog of 6"),
        ("1\n2\n", ":1: user 1 has 0 items"),
        ("1 5 6\n2 4 b\n", ":2: every word"),
    ],
)
def test_malformed_negatives_name_line_and_reason(tmp_path: Path, file: str, text: str, reason: str) -> None:
    make_dataset().save(tmp_path / "data")
    (tmp_path / "data" / file).write_text(text)
    with pytest.raises(DataError, match=file + ".*" + reason):
        Dataset.load(tmp_path / "data")


@pytest.mark.parametrize(("file", "target"), [("negative.txt", 4), ("validation_negative.txt", 3)])
def test_held_out_item_among_its_negatives_is_refused(tmp_path: Path, file: str, target: int) -> None:
    make_dataset().save(tmp_path / "data")
    (tmp_path / "data" / file).write_text(f"1 6 {target}\n2 4 6\n")
    with pytest.raises(DataError, match=f"item {target} is the held-out item of user 1"):
        Dataset.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", r"explanation\.json:1: not valid JSON"),
        ("[]", "must hold a JSON object"),
        ({"train": [], "val": []}, "'test' must be a list"),
        ({"train": [3], "val": [], "test": []}, r"train\[0\]: must be an object"),
        ({"train": [], "val": [{**RECORD, "user": "1"}], "test": []}, r"val\[0\]: 'user' must be int"),
        ({"train": [], "val": [], "test": [RECORD, {**RECORD, "item": 7}]}, r"test\[1\]: item 7 .*1\.\.6"),
        ({"train": [{"user": 1, "item": 1, "feature": "x"}], "val": [], "test": []}, "'explanation' must be str"),
    ],
)
def test_malformed_explanations_name_place_and_reason(tmp_path: Path, content: object, reason: str) -> None:
    make_dataset().save(tmp_path / "data")
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "data" / "explanation.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        Dataset.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda maps: maps.pop("id2item"), "'id2item' must map"),
        (lambda maps: maps["id2item"].pop("3"), "'id2item' has no text under '3'"),
        (lambda maps: maps["id2item"].update({"2": "a"}), "raw id 'a' to two numbers"),
        (lambda maps: maps["id2user"].update({"3": "carl"}), "3 entries for 2 sequences"),
        (lambda maps: maps["id2user"].update({"2": 5}), "no text under '2'"),
        (lambda maps: [maps["id2item"].pop(key) for key in ("5", "6")], "4 entries but the sequences use number 5"),
    ],
)
def test_malformed_maps_are_named(
    tmp_path: Path, change: Callable[[dict[str, dict[str, object]]], object], reason: str
) -> None:
    make_dataset().save(tmp_path / "data")
    file = tmp_path / "data" / "datamaps.json"
    maps = json.loads(file.read_text())
    change(maps)
    file.write_text(json.dumps(maps))
    with pytest.raises(DataError, match=reason):
        Dataset.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"counts": {"users": 1, "items": 1, "interactions": 1}}, "the folder was altered"),
        ({"scheme": None}, "'scheme' must be text"),
    ],
)
def test_description_that_contradicts_the_files_is_refused(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    make_dataset().save(tmp_path / "data")
    file = tmp_path / "data" / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=reason):
        Dataset.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"offsets": np.array([0, 2, 7], dtype=np.int32)}, "user 1 has 2 items"),
        ({"offsets": np.array([0, 4], dtype=np.int32)}, "offsets that cover all items"),
        ({"user_ids": ["anna"]}, "1 raw user ids for 2 sequences"),
        ({"item_ids": ["a"]}, r"must lie in 1\.\.1"),
    ],
)
def test_inconsistent_parts_are_refused(fields: dict[str, object], reason: str) -> None:
    whole = make_dataset()
    parts = {name: getattr(whole, name) for name in ("items", "offsets", "user_ids", "item_ids")}
    with pytest.raises(DataError, match=reason):
        Dataset(**{**parts, **fields})


def test_save_does_not_overwrite_unless_forced(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    make_dataset().save(place)  # an empty folder may be filled
    (place / "sequential.txt").write_text("old")
    with pytest.raises(DataError, match=r"not empty.*--force"):
        make_dataset().save(place)
    assert (place / "sequential.txt").read_text() == "old"
    make_dataset().save(place, force=True)
    assert (place / "sequential.txt").read_text() == SEQUENCES
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_force_spares_folders_of_other_kinds_and_files(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match=r"no sequential\.txt"):
        make_dataset().save(tmp_path / "home", force=True)
    with pytest.raises(DataError, match="is a file"):
        make_dataset().save(tmp_path / "home" / "thesis.txt", force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


def test_interrupted_save_leaves_nothing_or_the_old_folder(tmp_path: Path) -> None:
    make_dataset().save(tmp_path / "old")
    for name in ("new", "old"):
        with (
            pytest.raises(KeyboardInterrupt),
            whole_folder(tmp_path / name, marker="sequential.txt", force=True) as fresh,
        ):
            (fresh / "sequential.txt").write_text("half")
            raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
    assert Dataset.load(tmp_path / "old").user_count == 2


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        make_dataset().save(tmp_path / "file" / "data")


def test_attachments_are_part_of_the_folder(tmp_path: Path) -> None:
    make_dataset().save(tmp_path / "data", attachments={"notes.csv": "a,b\n"})
    assert (tmp_path / "data" / "notes.csv").read_text() == "a,b\n"
