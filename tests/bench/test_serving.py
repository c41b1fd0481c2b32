"""The serving bench: its records, its arithmetic, and the command on a tiny bundle."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import podx
from podx.errors import BundleError, ConfigError, DataError
from podx.requests.types import Recommendation, RecommendRequest
from podx.text.templates import Task
from podx_bench.cli.app import app
from podx_bench.harness.child import EngineError, run_in_child
from podx_bench.harness.environment import describe
from podx_bench.pages.render import html_report
from podx_bench.serving.records import (
    BATCHER,
    DIRECT,
    FULL_BATCHES,
    SERVING_FILE,
    ServingOptions,
    ServingRecord,
    ServingResults,
)
from podx_bench.serving.report import serving_charts, serving_report, serving_table
from podx_bench.serving.run import MEASURE, run_serving
from podx_bench.serving.server import Bench, Turn, closed_loop, record_of
from podx_bench.workload.work import WorkItem
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model

USERS, ITEMS, LENGTH = 20, 40, 5
NAMES = {"name": "the served recommender", "advice": "ask with fewer clients"}
Answer = list[Recommendation]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """In place of :class:`podx.requests.encoder.EncodedRequest`: the request itself."""

    request: RecommendRequest
    task: Task = Task.SEQUENTIAL
    text: tuple[int, ...] = ()


class Recommender:
    """Answers with the user's name; every call takes ``call_s``."""

    def __init__(self, call_s: float = 0.0) -> None:
        self.call_s = call_s
        self.sizes: list[int] = []

    def check_k(self, k: int) -> None:
        """Any will do."""

    def encode(self, requests: Sequence[RecommendRequest], exclude_seen: bool = True) -> list[Encoded]:
        return [Encoded(request) for request in requests]

    def recommend_encoded(self, requests: Sequence[Encoded], k: int, *_: Any, **__: Any) -> list[list[Recommendation]]:
        return self.recommend_batch([encoded.request for encoded in requests], k)

    def recommend_batch(
        self,
        requests: Sequence[RecommendRequest],
        k: int,
        exclude_seen: bool = True,
        search: Any = None,
        batch_size: int = 32,
    ) -> list[list[Recommendation]]:
        self.sizes.append(len(requests))
        time.sleep(self.call_s)
        return [[Recommendation(f"for {request.user}", -float(request.user))] for request in requests]


def bench(recommender: Recommender, **options: Any) -> Bench:
    requests = [RecommendRequest(str(number), ["item"]) for number in range(50)]
    made = Bench(recommender, requests, ServingOptions(**options))  # type: ignore[arg-type]
    recommender.sizes.clear()
    return made


# --- the measuring process ------------------------------------------------------------------------------------------


def test_every_question_is_asked_once_by_so_many_threads() -> None:
    asked: list[int] = []
    meet = threading.Barrier(4)

    def ask(number: int) -> None:
        if number < 4:
            meet.wait(10)  # passes only while four threads ask at the same time
        asked.append(number)

    ms, seconds = closed_loop(ask, 100, 4)
    assert sorted(asked) == list(range(100))
    assert len(ms) == 100 and 0 < max(ms) <= seconds * 1000


def test_an_error_of_a_client_ends_the_loop() -> None:
    def ask(number: int) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        closed_loop(ask, 10, 2)


def test_the_ways_of_asking_differ_in_their_calls() -> None:
    recommender = Recommender(call_s=0.003)
    several = bench(recommender, requests=90, max_batch=16, max_wait_ms=50)
    full, merged, direct = (several.take_turn(mode, 8) for mode in (FULL_BATCHES, BATCHER, DIRECT))
    assert (full.requests, full.calls, len(full.ms)) == (96, 6, 6)
    assert (direct.requests, direct.calls, len(direct.ms)) == (90, 90, 90)
    assert (merged.requests, len(merged.ms)) == (90, 90) and 12 <= merged.calls < 45
    assert len(recommender.sizes) == 6 + 90 + merged.calls
    assert sum(recommender.sizes) == 96 + 90 + 90


def test_ratios_are_taken_turn_by_turn() -> None:
    turns = [Turn((10.0, 20.0), 1.0, 100, 10), Turn((30.0, 40.0), 2.0, 100, 30), Turn((50.0,), 4.0, 100, 10)]
    beside = [Turn((1.0,), 0.5, 100, 4), Turn((1.0,), 1.0, 100, 4), Turn((1.0,), 4.0, 100, 4)]
    record = record_of(BATCHER, 8, turns, beside)
    assert record.users_per_s == pytest.approx(300 / 7)
    assert (record.ratio, record.p50_ms, record.mean_batch, record.requests) == (0.5, 30.0, 6.0, 300)
    assert record_of(FULL_BATCHES, 1, beside, None).ratio is None


def test_there_is_a_record_of_every_cell() -> None:
    records = bench(Recommender(0.001), requests=16, rounds=2, max_batch=4, clients=(1, 4)).measure()
    cells = [(record.mode, record.clients) for record in records]
    assert cells == [(BATCHER, 1), (DIRECT, 1), (BATCHER, 4), (DIRECT, 4), (FULL_BATCHES, 1)]
    assert all(record.users_per_s > 0 and record.p50_ms <= record.p95_ms <= record.p99_ms for record in records)
    assert records[-1].requests == 2 * 2 * 16


# --- options, files and drawings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"clients": ()},
        {"clients": (0, 4)},
        {"requests": 0},
        {"max_wait_ms": -1.0},
        {"task": Task.EXPLANATION},
        {"device": "tpu"},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options)).replace('_', '-')}"):
        ServingOptions(**options)


def test_options_read_back() -> None:
    options = ServingOptions(clients=(1, 8), task=Task.TOPN, max_wait_ms=0.5)
    assert msgspec.json.decode(msgspec.json.encode(options), type=ServingOptions) == options


def canned() -> ServingResults:
    records = [ServingRecord(FULL_BATCHES, 1, 512, 2, 100.0, 320.0, 330.0, 340.0, 32.0)]
    for mode, factor in ((BATCHER, 1.0), (DIRECT, 0.5)):
        for place, clients in enumerate((1, 8, 64)):
            rate = factor * (40.0, 80.0, 95.0)[place]
            ms = 1000 * clients / rate
            records.append(ServingRecord(mode, clients, 512, 2, rate, ms, 1.2 * ms, 1.5 * ms, 8.0, rate / 100))
    return ServingResults(
        environment=describe("cpu", 2),
        options=msgspec.to_builtins(ServingOptions(clients=(1, 8, 64))),
        model={"precision": "fp32", "parameters": 1000, "prompts": 3, "best_epoch": 4, "parity": {}},
        dataset={"name": "Beauty <b>", "scheme": "paper", "users": 22363, "items": 12101, "interactions": 198502},
        records=tuple(records),
    )


def test_results_read_back_as_written(tmp_path: Path) -> None:
    path = SERVING_FILE.write(tmp_path / "out", canned())
    assert [file.name for file in path.parent.iterdir()] == [SERVING_FILE.name]
    read = SERVING_FILE.read(path)
    assert read.records == canned().records
    assert msgspec.convert(read.options, ServingOptions).clients == (1, 8, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "no results of podx bench serving"),
        ('{"format": "podx-serving", "format_version": 9}', "format version 9"),
        ('{"format": "podx-serving", "format_version": 1, "records": [{}]}', "damaged"),
    ],
)
def test_foreign_files_are_named_errors(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / SERVING_FILE.name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        SERVING_FILE.read(path)


def test_the_table_has_the_yardstick_first() -> None:
    table = serving_table(canned())
    assert table.rows[0][:4] == ("full batches", "1", "100", "–")
    assert [(row[0], row[1]) for row in table.rows[1:4]] == [("podx.Batcher", c) for c in ("1", "8", "64")]
    assert table.rows[3][3] == "0.95×"
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_charts_stand_for_themselves_and_are_the_same_every_time() -> None:
    charts = serving_charts(canned().records)
    assert charts == serving_charts(canned().records)
    for svg, title in zip(charts, ("Throughput against clients", "Throughput against p99 latency"), strict=True):
        assert title in svg
        assert svg.startswith("<svg")
        assert all(name in svg for name in ("podx.Batcher", "direct calls", "full batches"))


def test_the_report_opens_with_the_answer() -> None:
    report = serving_report(canned())
    assert report.headline.startswith("64 clients get 0.95 times the rate of full batches")
    text = html_report(report)
    assert text.count("<svg") == 2 and "Beauty &lt;b&gt;" in text and "<script" not in text


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, data) of a tiny untrained model."""
    folder = tmp_path_factory.mktemp("model")
    starts = np.random.default_rng(3).integers(0, ITEMS, size=(USERS, 1))
    items = (starts + 7 * np.arange(LENGTH)) % ITEMS + 1
    dataset = Dataset(
        items=items.astype(np.int32).ravel(),
        offsets=np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        user_ids=[f"user-{n}" for n in range(USERS)],
        item_ids=[f"item-{n}" for n in range(ITEMS)],
        scheme="paper",
    )
    dataset.save(folder / "data")
    options = TrainOptions(epochs=0, device="cpu", max_history=3)
    train_model(dataset, folder / "checkpoint", options, Source(preset="tiny", pieces=100))
    export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=2)
    return folder / "bundle", folder / "data"


def test_the_command_measures_and_writes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = folders
    sizes = ("--clients", "1,8", "--requests", "64", "--rounds", "1", "--max-batch", "8", "--threads", "1", "-k", "5")
    arguments = ["serving", str(bundle), "--data", str(data), "--out", str(tmp_path / "out"), *sizes]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    results = SERVING_FILE.read(tmp_path / "out" / SERVING_FILE.name)
    assert {(r.mode, r.clients) for r in results.records} == {
        (FULL_BATCHES, 1), (BATCHER, 1), (BATCHER, 8), (DIRECT, 1), (DIRECT, 8)
    }  # fmt: skip
    merged = next(r for r in results.records if (r.mode, r.clients) == (BATCHER, 8))
    assert merged.mean_batch > 2 and merged.ratio is not None and merged.ratio > 0
    assert (tmp_path / "out" / "report.html").exists() and "podx.Batcher" in done.output
    assert str(tmp_path) not in (tmp_path / "out" / SERVING_FILE.name).read_text()


def test_threads_share_one_recommender_and_its_graphs(folders: tuple[Path, Path]) -> None:
    items = [f"item-{number}" for number in range(ITEMS)]
    histories = [[items[(first + step) % ITEMS] for step in range(1 + first % 3)] for first in range(ITEMS)]

    def ask(asked: podx.Recommender | podx.Batcher, number: int) -> tuple[Answer, Answer]:
        user, first = f"user-{number % USERS}", number % ITEMS
        candidates = (items * 2)[first : first + 7]
        return asked.recommend(user, histories[first], k=5), asked.rank(user, candidates, k=3)

    serial = podx.load(folders[0], "cpu", threads=1)
    expected = [ask(serial, number) for number in range(200)]
    assert len({tuple(answer) for lists in expected for answer in lists}) > 1
    shared = podx.load(folders[0], "cpu", threads=1)
    with podx.Batcher(shared) as batcher:
        for asked, clients in ((shared, 16), (batcher, 64)):
            given: dict[int, tuple[Answer, Answer]] = {}
            closed_loop(lambda n, asked=asked, given=given: given.update({n: ask(asked, n)}), 200, clients)
            for number, lists in enumerate(expected):
                for right, found in zip(lists, given[number], strict=True):
                    assert np.allclose([r.score for r in right], [f.score for f in found], rtol=0, atol=1e-5)
                    assert [r.item for r in right] == [f.item for f in found]


def test_candidates_are_ranked_through_the_batcher_too(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = folders
    options = ServingOptions(clients=(4,), requests=32, rounds=1, threads=1, task=Task.TOPN)
    results = run_serving(bundle, data, tmp_path, options)
    assert [record.mode for record in results.records] == [BATCHER, DIRECT, FULL_BATCHES]


def test_what_cannot_be_measured_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = folders
    with pytest.raises(ConfigError, match="is a file"):
        run_serving(bundle, data, bundle / "manifest.json", ServingOptions())
    with pytest.raises(BundleError):
        run_serving(tmp_path / "missing", data, tmp_path, ServingOptions())
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_process_is_raised_here() -> None:
    with pytest.raises(BundleError, match="nowhere"):
        run_in_child(MEASURE, Path("nowhere"), [WorkItem("user", ("item",))], ServingOptions(), returns=None, **NAMES)


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)died with status 1 .*Expected `object`"):
        run_in_child(MEASURE, tmp_path, ["no request"], ServingOptions(), returns=None, **NAMES)
