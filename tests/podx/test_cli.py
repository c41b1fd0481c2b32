"""The runtime's commands over a bundle without graphs: flags arrive where they are meant to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from podx import cli
from podx.errors import ConfigError, HistoryError
from tests.podx.bundles import ITEM_IDS, MAX_HISTORY, USER_IDS

pytestmark = pytest.mark.usefixtures("fake_model")
LONG = ",".join(ITEM_IDS[: MAX_HISTORY + 1])


def answers(*arguments: str | Path) -> list[str]:
    """Items that a command prints as JSON."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json", "--device", "cpu", "--threads", "1"])
    if result.exception is not None:
        raise result.exception
    return [answer["item"] for answer in json.loads(result.stdout)]


def test_a_history_that_is_too_long_is_cut_on_demand(bundle_path: Path) -> None:
    command = ("recommend", bundle_path, "--user", USER_IDS[1], "-k", "3", "--history")
    with pytest.raises(HistoryError, match="keep-last"):
        answers(*command, LONG)
    assert len(answers(*command, LONG, "--keep-last")) == 3


def test_a_cold_start_user_is_read_by_its_history_on_demand(bundle_path: Path) -> None:
    command = ("recommend", bundle_path, "--user", "newcomer", "--history", ITEM_IDS[0], "--unknown-user")
    assert len(answers(*command, "nearest")) == 10
    with pytest.raises(ConfigError, match="not 'guess'"):
        answers(*command, "guess")


def test_the_filter_is_read(bundle_path: Path) -> None:
    command = ("recommend", bundle_path, "--user", USER_IDS[1], "--history", ITEM_IDS[0])
    assert set(answers(*command, "--allow", "B001, B002", "--include-seen")) == {"B001", "B002"}
    assert answers(*command, "--allow", "B001,B002,B003", "--exclude", "B003") == ["B002"]


def test_candidates_are_ranked_and_a_table_is_printed(bundle_path: Path) -> None:
    command = ("rank", bundle_path, "--user", USER_IDS[1], "--candidates", "B001,B002")
    assert sorted(answers(*command)) == ["B001", "B002"]
    printed = CliRunner().invoke(cli.app, [*map(str, command), "--device", "cpu"]).stdout
    assert f"best for {USER_IDS[1]}" in printed and "B002" in printed


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).stdout.startswith("0.")
