"""Lists for everybody: the rows, the parts, and runs that were ended and went on."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from podx.errors import BundleError, ConfigError, DataError, DependencyError, ScoringError
from podx.recommender import Recommender
from tests.podx.bundles import ITEM_IDS, USER_IDS, write_bundle
from tests.podx.scoring.apart import begin, files

pa = pytest.importorskip("pyarrow", reason="pyarrow (podx[score]) is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow (podx[score]) is not installed")

from podx.scoring import Scorer, engines, score  # noqa: E402
from podx.scoring.run import JOB_FILE, SUCCESS_FILE, ScoreOptions  # noqa: E402
from podx.scoring.users import UserFiles  # noqa: E402

pytestmark = pytest.mark.usefixtures("fake_model")
KNOWN = USER_IDS[:-1]  # the last one has no history
KILLS = 20


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()  # type: ignore[no-any-return]


def write_users(path: Path, group: int = 5, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_without_users_those_of_the_bundle_are_answered(bundle_path: Path, rec: Recommender, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    result = score(
        bundle_path, tmp_path / "out", options=ScoreOptions(k=3, part_users=5), progress=lambda *pair: done.append(pair)
    )
    assert (result.users, result.errors, result.made) == (len(USER_IDS), 1, len(USER_IDS))
    assert done[0] == (0, 12) and done[-1] == (12, 12) and (5, 12) in done
    expected = [
        (user, rank, item.item, pytest.approx(item.score), answer.exact, None)
        for user in KNOWN
        for answer in [rec.recommend(user, k=3)]
        for rank, item in enumerate(answer, start=1)
    ]
    found = rows(tmp_path / "out")
    assert [tuple(row.values()) for row in found[:-1]] == expected
    assert found[-1]["error"].startswith("HistoryError: no history is known") and found[-1]["user"] == USER_IDS[-1]
    names = {JOB_FILE, SUCCESS_FILE, *(f"part-{number:05d}.parquet" for number in range(3))}
    assert set(files(tmp_path / "out")) == names


def test_columns_mean_what_they_mean_in_requests(bundle_path: Path, rec: Recommender, tmp_path: Path) -> None:
    history, exclude, allow = ITEM_IDS[:2], ITEM_IDS[2:30], ITEM_IDS[20:40]
    users = write_users(
        tmp_path / "users.parquet",
        user=[KNOWN[0]] * 4,
        history=pa.array([None, history, history, history]),
        exclude=[[], exclude, None, ITEM_IDS],
        allow=[allow, None, [], None],
    )
    options = ScoreOptions(k=4, include_seen=True)
    score(bundle_path, tmp_path / "out", users, options)
    by_row = [
        rec.recommend(KNOWN[0], None, 4, allow=allow, exclude_seen=False),
        rec.recommend(KNOWN[0], history, 4, exclude, exclude_seen=False),
    ]
    found = [row["item"] for row in rows(tmp_path / "out")]
    assert found == [item.item for answer in by_row for item in answer] + [None, None]
    assert all(row["error"] is None for row in rows(tmp_path / "out")), "nobody is permitted anything: that is no error"


def test_bad_rows_are_in_the_output_with_their_error(bundle_path: Path, tmp_path: Path) -> None:
    users = write_users(
        tmp_path / "users.parquet",
        user=["nobody", None, *[KNOWN[0]] * 4, KNOWN[1]],
        history=pa.array([None, None, [], [None], ["no item"], ITEM_IDS, None], pa.list_(pa.string())),
    )
    result = score(bundle_path, tmp_path / "out", users, ScoreOptions(k=1))
    assert (result.users, result.errors) == (7, 6)
    kinds = [(row["error"] or "").partition(":")[0] for row in rows(tmp_path / "out")]
    history = "HistoryError"
    assert kinds == ["UnknownUserError", "RequestError", history, "RequestError", "UnknownItemError", history, ""]


def test_a_table_of_pandas_or_of_integers_is_read(bundle_path: Path, rec: Recommender, tokenizer_path: Path) -> None:
    scorer = Scorer(bundle_path, k=2)
    table = pa.table({"user": pa.array(KNOWN[:1], pa.large_string()), "history": [None], "exclude": [[]]})
    assert scorer(table).column("item").to_pylist() == [item.item for item in rec.recommend(KNOWN[0], k=2)]
    numbered = scorer(pa.table({"user": [7], "allow": pa.array([[1]])})).to_pylist()
    assert len(numbered) == 1 and "user '7'" in numbered[0]["error"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a"], "histroy": [["b"]]}, "'histroy' is none of"),
        ({"users": ["a"]}, "'users' is none of"),
        ({"allow": [["a"]]}, "no column 'user'"),
        ({"user": [1.5]}, "'user' holds double"),
        ({"user": ["a"], "history": ["b"]}, "'history' holds string"),
        ({"user": ["a"], "history": [[0.5]]}, "'history' holds list"),
    ],
)
def test_other_columns_are_refused(bundle_path: Path, tmp_path: Path, columns: Any, message: str) -> None:
    users = write_users(tmp_path / "users.parquet", **columns)
    with pytest.raises(DataError, match=message):
        score(bundle_path, tmp_path / "out", users)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_users_are_refused(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "users.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        score(bundle_path, tmp_path / "out", tmp_path / "users.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        score(bundle_path, tmp_path / "out", tmp_path / "nowhere.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no Parquet file in"):
        score(bundle_path, tmp_path / "out", tmp_path / "empty")
    write_users(tmp_path / "empty" / "a.parquet", user=["a"])
    write_users(tmp_path / "empty" / "b.parquet", user=["a"], history=[["b"]])
    with pytest.raises(DataError, match="has other columns"):
        score(bundle_path, tmp_path / "out", tmp_path / "empty")


def test_nobody_gets_an_empty_table(bundle_path: Path, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", user=pa.array([], pa.string()))
    assert score(bundle_path, tmp_path / "out", users).users == 0
    assert rows(tmp_path / "out") == [] and pq.read_table(tmp_path / "out").column_names[0] == "user"


@pytest.mark.parametrize("asked", [range(9), (4, 1, 8, 0), (2, 2, 7)])
def test_parts_are_the_same_however_they_are_asked_for(tmp_path: Path, asked: Any) -> None:
    """Parts of 7 rows over two files with row groups of 10."""
    names = [str(number) for number in range(60)]
    for file in range(2):
        write_users(tmp_path / f"users-{file}.parquet", 10, user=names[30 * file : 30 * file + 30])
    users = UserFiles(tmp_path, 7)
    assert users.rows == 60
    for part in asked:
        assert users.part(part).column("user").to_pylist() == names[7 * part : 7 * part + 7]


def test_a_run_goes_on_only_with_what_it_was_begun_with(
    bundle_path: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    out, users = tmp_path / "out", write_users(tmp_path / "users.parquet", user=KNOWN)
    options = ScoreOptions(part_users=4)
    score(bundle_path, out, users, options)
    whole = files(out)
    for name in ("part-00001.parquet", SUCCESS_FILE):
        (out / name).unlink()
    (out / ".part-00001.parquet.partial").write_bytes(b"half")
    with pytest.raises(DataError, match="--resume"):
        score(bundle_path, out, users, options)
    other_ids = [*ITEM_IDS[:-1], "another"]
    other = write_bundle(tmp_path / "other", tokenizer_path, item_ids=other_ids)
    others = write_users(tmp_path / "others.parquet", user=KNOWN[::-1])
    for arguments, name in (
        ((other, out, users, options), "bundle"),
        ((bundle_path, out, others, options), "users"),
        ((bundle_path, out, None, options), "users"),
        ((bundle_path, out, users, ScoreOptions(k=9, part_users=4)), "k 10, not 9"),
        ((bundle_path, out, users, ScoreOptions()), "part_users"),
        ((bundle_path, out, users, ScoreOptions(part_users=4, include_seen=True)), "exclude_seen"),
    ):
        with pytest.raises(DataError, match=f"begun with {name}"):
            score(*arguments, resume=True)
    with pytest.raises(DataError, match="begun with long_history"):
        score(bundle_path, out, users, options, resume=True, long_history="keep-last")
    assert SUCCESS_FILE not in files(out)
    result = score(bundle_path, out, users, options, resume=True, device="auto", threads=1)
    assert files(out) == whole and result.made == 4
    assert score(bundle_path, out, users, options, resume=True).made == 0


def test_only_an_own_folder_is_written_to(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        score(bundle_path, tmp_path / "file")
    with pytest.raises(DataError, match="holds nothing that podx score began"):
        score(bundle_path, tmp_path, resume=True)

    def again(*_: int) -> None:
        with pytest.raises(DataError, match="another podx score writes to"):
            score(bundle_path, tmp_path / "out", resume=True)

    score(bundle_path, tmp_path / "out", progress=again)


def test_another_bundle_in_its_place_is_seen(bundle_path: Path) -> None:
    with pytest.raises(BundleError, match="begun with 0123"):
        engines.PartMaker(engines.Work(bundle_path, "0123", None, 5))


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(bundle_path: Path, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", 700, user=KNOWN * 400)
    whole, out, options = tmp_path / "whole", tmp_path / "out", ScoreOptions(k=3, part_users=100)
    start = time.monotonic()
    score(bundle_path, whole, users, options, device="cpu")
    seconds = time.monotonic() - start
    begin(
        bundle_path, tmp_path / "first", users, options
    ).join()  # the process that all others are forked from is there
    seed = random.randrange(1 << 32)
    chance, kills = random.Random(seed), 0
    while True:
        process = begin(bundle_path, out, users, options)
        process.join(chance.uniform(0, seconds / 12) if kills < KILLS else None)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
        done = (
            {name: content for name, content in files(out).items() if not name.startswith(".")} if out.exists() else {}
        )
        assert done.items() <= files(whole).items(), f"seed {seed}"
    assert process.exitcode == 0 and kills >= KILLS / 2, f"seed {seed}"
    assert files(out) == files(whole) == files(tmp_path / "first"), f"seed {seed}"


def test_the_command(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from podx import cli
    from podx.scoring import command

    app = cli.app if "score" in cli.PluginGroup(commands={}).list_commands(None) else None
    if app is None:
        pytest.skip("podx is installed as it was before there was podx score: install it again")
    users = write_users(tmp_path / "users.parquet", user=[*KNOWN, "nobody"])
    run = [*("score", str(bundle_path), "--out", str(tmp_path / "out"), "--users", str(users)), "-k", "2"]
    result = CliRunner().invoke(app, [*run, "--keep-last", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "12 users, 1 of them with an error" in result.output
    assert json.loads((tmp_path / "out" / JOB_FILE).read_text())["long_history"] == "keep-last"
    assert len(rows(tmp_path / "out")) == 2 * len(KNOWN) + 1
    assert isinstance(CliRunner().invoke(app, run).exception, DataError)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "score", interrupted)
    ended = CliRunner().invoke(app, run)
    assert ended.exit_code == command.INTERRUPTED and "--resume goes on" in ended.output


def test_what_is_out_of_range_is_named(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--part-users"):
        ScoreOptions(part_users=0)
    with pytest.raises(ConfigError, match="--engine 'spark'"):
        ScoreOptions(engine="spark")


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(DependencyError, match=r"podx\[ray\]"):
        engines.import_ray()


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray (podx[ray]) is not installed")

    def nobody(**_: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(ScoringError, match="nobody answers"):
        engines.import_ray()


def test_the_room_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import podx.scoring

    with pytest.raises(AttributeError, match="no attribute 'lists'"):
        _ = podx.scoring.lists  # type: ignore[attr-defined]
