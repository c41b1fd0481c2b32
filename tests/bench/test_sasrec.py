"""SASRec's split and result file, checked without its library; and one tiny training where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from podx.errors import ConfigError, DataError
from podx_bench.peers.place import CHECKOUT
from podx_train.data.dataset import Dataset
from tests.bench.conftest import make_dataset

SCRIPTS = Path(__file__).parents[2] / "bench" / "sasrec"
sys.path.insert(0, str(SCRIPTS))
from sasrec_data import (  # noqa: E402
    as_lists,
    content_mark,
    read_sequences,
    require_place,
    seen_interactions,
    validation_mask,
    write_result,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with the world of :func:`make_dataset`."""
    made = tmp_path / "data"
    make_dataset().save(made)
    return made


# --- the split ----------------------------------------------------------------------------------------------------


def test_the_split_is_that_of_the_dataset(folder: Path) -> None:
    dataset, sequences = Dataset.load(folder), read_sequences(folder)
    assert list(sequences) == [1, 2, 3]
    seen = seen_interactions(sequences)
    held_out = validation_mask(seen.users, seen.times)
    for user in sequences:
        own = seen.users == user
        assert seen.items[own].tolist() == dataset.history(user, "test").tolist()
        assert seen.items[own & ~held_out].tolist() == dataset.train_items(user).tolist()
        assert seen.items[own & held_out].tolist() == [dataset.validation_item(user)]
        assert seen.times[own].tolist() == list(range(own.sum()))


def test_validation_is_the_last_of_each_user_in_any_order() -> None:
    users, times = np.array([2, 1, 2, 1, 1, 3]), np.array([4, 0, 9, 2, 1, 0])
    assert validation_mask(users, times).tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 x 4\n", "sequential.txt:1"),
        ("1 2 3 4\n2 5 6\n", "sequential.txt:2.*at least 3 items"),
        ("1 2 3 4\n1 5 6 7\n", "one line"),
        ("1 2 0 4\n", "numbers from 1"),
        ("1 2 3 4\n\n", "sequential.txt:2"),
        ("", "is empty"),
    ],
)
def test_damaged_sequences_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sequential.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_sequences(tmp_path)


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="podx data prepare"):
        read_sequences(tmp_path / "nowhere")


# --- the file -----------------------------------------------------------------------------------------------------


def test_lists_keep_users_and_ranks() -> None:
    answered, items = np.array([9, 9, 9, 4]), np.array([3, 1, 2, 7])
    assert as_lists(np.array([4, 5, 9]), answered, items) == [[7], [], [3, 1, 2]]


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    write_result(out, {"name": "old"})
    with pytest.raises(TypeError):
        write_result(out, {"name": "new", "unwritable": object()})
    assert json.loads(out.read_text()) == {"name": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_place_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    require_place(tmp_path / "new" / "result.json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(ConfigError, match="is a folder"):
        require_place(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="another --out"):
        require_place(tmp_path / "file" / "result.json")


# --- training -----------------------------------------------------------------------------------------------------


def _chain_world(folder: Path, users: int = 60, items: int = 40, length: int = 9) -> Dataset:
    """Users who walk through the catalogue by ones: the next item follows from the last."""
    starts = np.arange(users) * 7 % items
    sequences = (starts[:, None] + np.arange(length)[None, :]) % items + 1
    dataset = Dataset(
        sequences.astype(np.int32).ravel(),
        np.arange(0, users * length + 1, length, dtype=np.int32),
        [f"user-{n}" for n in range(users)],
        [f"item-{n}" for n in range(items)],
    )
    dataset.save(folder)
    return dataset


def test_it_learns_a_simple_world_and_repeats_by_seed(tmp_path: Path) -> None:
    python = Path(os.environ.get("PODX_SASREC") or CHECKOUT / ".venv-sasrec") / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"SASRec's environment is missing, there is no {python}: make peers-sasrec")
    dataset = _chain_world(tmp_path / "data")
    options = ("--epochs", "25", "--batch-size", "16", "--dropout", "0.0", "--lr", "0.01", "--factors", "32")
    files = [tmp_path / f"{n}.json" for n in range(2)]
    for file in files:
        command = [str(python), str(SCRIPTS / "sasrec.py"), str(tmp_path / "data"), "--out", str(file)]
        subprocess.run([*command, "--seed", "5", "--minutes", "1", *options, "-k", "4"], check=True)
    first, again = (json.loads(file.read_text()) for file in files)
    assert first["lists"] == again["lists"]
    assert (first["name"], first["seed"], first["users"]) == ("SASRec", 5, list(range(1, 61)))
    assert first["sequences_sha256"] == content_mark(tmp_path / "data")
    assert 1 <= first["best_epoch"] <= first["epochs"] <= 25 and first["minutes"] < 2
    hits = 0
    for user, answers in zip(first["users"], first["lists"], strict=True):
        assert len(answers) == len(set(answers)) == 4 and min(answers) >= 1
        assert not set(answers) & set(dataset.history(user, "test").tolist())
        hits += dataset.test_item(user) == answers[0]
    assert hits > 50
