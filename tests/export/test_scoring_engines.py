"""``podx score`` with real graphs: one process, several, Ray and Spark make the same lists."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from podx.errors import ConfigError, ScoringError
from podx_export.blocks.graph import FP32, INT8
from tests.export.one_pass_world import make_world

pa = pytest.importorskip("pyarrow", reason="pyarrow (podx[score]) is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow (podx[score]) is not installed")

from podx.scoring import Scorer, score  # noqa: E402
from podx.scoring.run import SUCCESS_FILE, ScoreOptions  # noqa: E402
from podx.scoring.scorer import LISTS  # noqa: E402

SECONDS = 60
OPTIONS = {"k": 5, "part_users": 50, "batch_size": 8}


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module", params=[FP32, INT8])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    make_world(folder, "two codes", precision=request.param)
    return folder / "bundle"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Known users and unknown ones, with histories of all lengths."""
    path = tmp_path_factory.mktemp("users") / "users.parquet"
    histories = [None if row % 3 else [f"item-{row % 60 + 1}"] * (row % 8) for row in range(330)]
    names = [f"user-{row % 43 + 1}" for row in range(330)]
    pq.write_table(pa.table({"user": names, "history": histories}), path, row_group_size=70)
    return path


@pytest.fixture(scope="module")
def lists(bundle: Path, users: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    out = tmp_path_factory.mktemp("lists") / "lists.parquet"
    result = score(bundle, out, users, ScoreOptions(**OPTIONS), threads=1)
    assert result.users == 330 and 0 < result.errors < 330
    return out


def test_lists_do_not_depend_on_parts_batches_or_threads(bundle: Path, users: Path, lists: Path) -> None:
    scorer = Scorer(bundle, 5, batch_size=32, threads=2)
    table, expected = scorer(pq.read_table(users)), pq.read_table(lists)
    for name in ("user", "rank", "item", "exact", "error"):
        assert table.column(name) == expected.column(name), name
    np.testing.assert_allclose(table.column("score").to_numpy(), expected.column("score").to_numpy(), rtol=1e-5)


def test_processes_make_the_same_parts(bundle: Path, users: Path, lists: Path, tmp_path: Path) -> None:
    shutil.copytree(lists, tmp_path / "out")
    for name in (SUCCESS_FILE, "part-00000.parquet", "part-00002.parquet", "part-00006.parquet"):
        (tmp_path / "out" / name).unlink()
    done: list[tuple[int, int]] = []
    options = ScoreOptions(workers=2, **OPTIONS)
    score(bundle, tmp_path / "out", users, options, True, lambda *pair: done.append(pair))
    assert parts(tmp_path / "out") == parts(lists)
    assert done[0] == (200, 330) and done[-1] == (330, 330) and len(done) == 4


def test_a_worker_that_is_killed_ends_the_run_with_a_name(
    bundle: Path, users: Path, lists: Path, tmp_path: Path
) -> None:
    def kill(done: int, _: int) -> None:
        if done:
            for process in multiprocessing.active_children():
                process.kill()

    options = ScoreOptions(workers=2, **{**OPTIONS, "part_users": 10})
    with pytest.raises(ScoringError, match="--resume"):
        score(bundle, tmp_path / "out", users, options, False, kill)
    assert multiprocessing.active_children() == []
    with pytest.raises(ConfigError, match="'guess'"):  # what a worker raises is what its caller sees
        score(bundle, tmp_path / "other", users, options, long_history="guess")


def test_workers_end_with_the_process_that_began_them(bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["user-1"] * 100_000}), tmp_path / "users.parquet")
    run = "from podx.scoring import score; from podx.scoring.run import ScoreOptions; import sys\n"
    run += "if __name__ == '__main__': score(*sys.argv[1:], ScoreOptions(workers=2, part_users=50), threads=1)"
    paths = [str(bundle), str(tmp_path / "out"), str(tmp_path / "users.parquet")]
    process = psutil.Popen([sys.executable, "-c", run, *paths], stderr=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while not (tmp_path / "out" / "part-00000.parquet").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    workers = process.children(recursive=True)
    process.kill()
    assert len(workers) >= 2 and psutil.wait_procs(workers, SECONDS)[1] == []


def test_ray_makes_the_same_parts(bundle: Path, users: Path, lists: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray (podx[ray]) is not installed")
    options = ScoreOptions(workers=2, engine="ray", **OPTIONS)
    ray.init(num_cpus=2, log_to_driver=False)
    try:
        score(bundle, tmp_path / "out", users, options)
        assert parts(tmp_path / "out") == parts(lists)
        with pytest.raises(ConfigError, match="Ray has 2"):
            score(bundle, tmp_path / "none", users, options, threads=2)
        with pytest.raises(ConfigError, match="'guess'"):
            score(bundle, tmp_path / "other", users, options, long_history="guess")
    finally:
        ray.shutdown()


def test_spark_makes_the_same_lists(bundle: Path, users: Path, lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not there")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)

    def lists_of(frames: Any) -> Any:
        scorer = Scorer(bundle, 5, batch_size=8, threads=1)
        for frame in frames:
            yield scorer(pa.Table.from_pandas(frame, preserve_index=False)).to_pandas()

    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", False).getOrCreate()
    try:
        kinds = "user string, rank int, item string, score float, exact boolean, error string"
        found = spark.read.parquet(str(users)).mapInPandas(lists_of, kinds).toPandas()
    finally:
        spark.stop()
    table, expected = pa.Table.from_pandas(found, LISTS, preserve_index=False), pq.read_table(lists)
    assert table.drop(["score"]) == expected.drop(["score"])
