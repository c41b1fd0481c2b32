"""``podx data``: the commands, their output and their errors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from podx.errors import PodxError
from podx_train.cli.data import app
from podx_train.data.dataset import Dataset
from podx_train.data.stats import dataset_stats, near_users_hit_rate

USERS, ITEMS = 12, 8


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_csv(path: Path) -> Path:
    rows = [f"u{user},i{(user * 3 + step) % ITEMS},{step}" for user in range(USERS) for step in range(5)]
    path.write_text("user,item,time\n" + "\n".join([*rows, "broken", "u1,,3"]) + "\n")
    return path


@pytest.mark.parametrize("scheme", ["train-first", "shuffled", "paper"])
def test_prepare_writes_a_dataset_and_tells_what_was_dropped(tmp_path: Path, scheme: str) -> None:
    result = run("prepare", write_csv(tmp_path / "x.csv"), "--out", tmp_path / "data", "--ids", scheme)
    assert result.exit_code == 0
    dataset = Dataset.load(tmp_path / "data")
    assert (dataset.user_count, dataset.item_count, dataset.scheme) == (USERS, ITEMS, scheme)
    assert dataset.provenance["source"]["name"] == "x.csv"
    assert len(dataset.provenance["source"]["sha256"]) == 64
    for words in ("item is missing", "line 62", "number of fields", "line 63", "negative lists hold 3"):
        assert words in " ".join(result.output.split())


def test_prepare_refuses_a_taken_place_until_forced(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "x.csv")
    assert run("prepare", source, "--out", tmp_path / "data").exit_code == 0
    refused = run("prepare", source, "--out", tmp_path / "data")
    assert isinstance(refused.exception, PodxError)
    assert run("prepare", source, "--out", tmp_path / "data", "--force", "--seed", 1).exit_code == 0
    assert Dataset.load(tmp_path / "data").provenance["options"]["seed"] == 1


def test_prepare_takes_column_names(tmp_path: Path) -> None:
    text = write_csv(tmp_path / "x.csv").read_text().replace("user,item,time", "who,what,when")
    (tmp_path / "y.csv").write_text(text)
    columns = ("--user-column", "who", "--item-column", "what", "--timestamp-column", "when")
    assert run("prepare", tmp_path / "y.csv", "--out", tmp_path / "data", *columns).exit_code == 0
    assert Dataset.load(tmp_path / "data").user_count == USERS


def test_synth_writes_the_interactions_too_and_they_prepare_to_the_same(tmp_path: Path) -> None:
    size = ("--users", 130, "--items", 60, "--seed", 2)
    assert run("synth", "--out", tmp_path / "world", *size).exit_code == 0
    source = tmp_path / "world" / "interactions.csv"
    assert run("prepare", source, "--out", tmp_path / "again", "--seed", 2).exit_code == 0
    first, second = Dataset.load(tmp_path / "world"), Dataset.load(tmp_path / "again")
    assert first.user_count == 130
    assert first.item_count == 60
    np.testing.assert_array_equal(first.items, second.items)
    assert first.explanations == second.explanations
    assert len(first.explanations["train"]) > 300


def test_stats_prints_table_or_json(tmp_path: Path) -> None:
    run("prepare", write_csv(tmp_path / "x.csv"), "--out", tmp_path / "data")
    table = run("stats", tmp_path / "data")
    assert table.exit_code == 0
    for words in ("train-first", "density", "max(history)+1", "near numbers"):
        assert words in table.output
    values = json.loads(run("stats", tmp_path / "data", "--json").output)
    assert values == asdict(dataset_stats(Dataset.load(tmp_path / "data")))
    assert (values["users"], values["items"], values["interactions"]) == (USERS, ITEMS, USERS * 5)
    assert values["density"] == pytest.approx(5 / ITEMS)
    assert (values["length_median"], values["length_max"]) == (5, 5)


def leak_dataset() -> Dataset:
    """User u took items around 4u; the test item of user u follows the largest of its history."""
    rows = [[4 * n + 1, 4 * n + 2, 4 * n + 3, 4 * n + 4] for n in range(30)]
    items = np.array(rows, dtype=np.int32).ravel()
    names = [str(n) for n in range(121)]
    return Dataset(items, np.arange(0, 121, 4, dtype=np.int32), names[:30], names[:120])


def test_largest_plus_one_leak_is_measured() -> None:
    stats = dataset_stats(leak_dataset())
    assert stats.max_plus_one_hr1 == 1.0
    assert stats.max_plus_one_hr10 == 1.0


def test_near_user_leak_is_measured() -> None:
    """The test item of each user is the first item of the next: neighbours tell it, shuffled numbers do not."""
    count = 400
    rows = [[3 * n, 3 * n + 1, 3 * n + 2, 3 * (n + 1) % (3 * count)] for n in range(count)]
    items = np.array(rows, dtype=np.int32).ravel() + 1
    names = [str(n) for n in range(3 * count)]
    dataset = Dataset(items, np.arange(0, 4 * count + 1, 4, dtype=np.int32), names[:count], names)
    assert near_users_hit_rate(dataset, np.arange(count)) > 0.95
    assert near_users_hit_rate(dataset, np.random.default_rng(0).permutation(count)) < 0.1
