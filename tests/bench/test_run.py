"""The whole bench on a tiny untrained model: real checkpoint, real bundle, real processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from podx.bundle.bundle import Bundle
from podx.errors import CheckpointError, ConfigError, DeviceError
from podx.text.templates import Task
from podx_bench.cli.app import app
from podx_bench.engines.eager import EagerEngine
from podx_bench.engines.runtime import RuntimeEngine
from podx_bench.harness.records import BENCH_FILE, Results
from podx_bench.pages.render import HTML_FILE, MARKDOWN_FILE
from podx_bench.run.options import BenchOptions
from podx_bench.run.run import INTERRUPTED, BenchRun, Inputs
from podx_bench.workload.scenarios import build_workload
from podx_bench.workload.work import RequestReader
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.bench.world import USERS, Made, context_of, engines_here, small_world

OUTPUT = "output.txt"
"""What a command printed, kept beside its results."""
ITEM_ENGINES = ("as-published", "encode-once", "podx", "podx-steps", "podx-vocabulary")


@pytest.fixture(scope="module")
def ranked(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """A run on the command line, and its folder. An eager engine and our own have processes."""
    out = tmp_path_factory.mktemp("out")
    with engines_here(but=("encode-once", "podx")):
        said = _invoke(
            made,
            out,
            *("--tasks", "sequential", "--engines", ",".join(ITEM_ENGINES), "--batch-sizes", "1,4", "--threads", "1"),
            *("--speed-users", "4", "--rounds", "1", "--eager-users", "12", "--label", "tiny"),
        )
    (out / OUTPUT).write_text(said)
    return BENCH_FILE.read(out / BENCH_FILE.name), out


@pytest.fixture
def here() -> Iterator[None]:
    """Engines answer in this process."""
    with engines_here():
        yield


def _invoke(made: Made, out: Path, *options: str) -> str:
    arguments = [str(made.bundle), "--checkpoint", str(made.checkpoint), "--data", str(made.data), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def _find(results: Results, engine: str, task: str) -> Sequence[object]:
    return [record for record in results.speed if (record.engine, record.task) == (engine, task)]


def test_every_cell_has_a_record(ranked: tuple[Results, Path]) -> None:
    results, _ = ranked
    cells = {(record.engine, record.task, record.batch_size) for record in results.speed}
    assert cells == {(engine, "sequential", size) for engine in ITEM_ENGINES for size in (1, 4)}
    assert len(results.speed) == len(cells)
    assert all(record.p50_ms > 0 and record.users_per_s > 0 and record.peak_rss_mb > 10 for record in results.speed)
    ours = next(r for r in results.speed if r.engine == "podx")
    assert ours.ratio_vs_encode_once is not None and ours.ratio_vs_encode_once > 1
    assert results.notes == ()


def test_engines_agree_and_every_answer_is_an_item(ranked: tuple[Results, Path]) -> None:
    records = {record.engine: record for record in ranked[0].accuracy}
    assert records.keys() == {*ITEM_ENGINES, "popularity", "max(history)+1", "near user numbers"}
    assert records["encode-once"].users == 12
    assert records["podx"].users == USERS
    assert records["as-published"].overlap == 1.0
    assert (records["podx-steps"].overlap, records["podx-steps"].overlap_with) == (1.0, "podx")
    same = records["podx-vocabulary"]
    assert (same.overlap, same.overlap_with, same.overlap_users) == (1.0, "encode-once", 12)
    for engine in ITEM_ENGINES:
        assert records[engine].metrics["invalid"] == records[engine].metrics["duplicate"] == 0.0


@pytest.mark.usefixtures("here")
def test_candidates_are_ranked_alike(made: Made, tmp_path: Path) -> None:
    engines = ("encode-once", "podx", "podx-numbers", "podx-vocabulary")
    options = BenchOptions(tasks=(Task.TOPN,), engines=engines, users=4, speed=False, threads=1)
    results = BenchRun(made.inputs, tmp_path, options).measure()
    assert results.speed == ()
    assert BENCH_FILE.read(tmp_path / BENCH_FILE.name).accuracy == results.accuracy
    records = {record.engine: record for record in results.accuracy}
    assert records.keys() == {*engines, "popularity", "random"}
    assert (records["podx-vocabulary"].overlap, records["podx-vocabulary"].overlap_users) == (1.0, 4)
    assert (records["podx-numbers"].overlap, records["podx-numbers"].overlap_with) == (1.0, "podx")


def test_results_name_no_path_of_this_machine(ranked: tuple[Results, Path], made: Made) -> None:
    text = (ranked[1] / BENCH_FILE.name).read_text()
    assert str(made.data.parent) not in text and str(Path.home()) not in text
    assert ranked[0].environment["packages"].keys() >= {"torch", "transformers", "onnxruntime", "numpy"}


def test_reports_stand_beside_the_results(ranked: tuple[Results, Path]) -> None:
    out = ranked[1]
    assert {path.name for path in out.iterdir()} == {BENCH_FILE.name, MARKDOWN_FILE, HTML_FILE, OUTPUT}
    assert "# podx bench: tiny" in (out / MARKDOWN_FILE).read_text()


@pytest.mark.usefixtures("here")
def test_variants_lengths_and_streams_in_one_run(made: Made, tmp_path: Path) -> None:
    bundle, dataset = Bundle.load(made.bundle), Dataset.load(made.data)
    requests = build_workload(Task.SEQUENTIAL, dataset, bundle, None, 0).requests
    length = int(np.median(RequestReader(bundle, Task.SEQUENTIAL).lengths(requests)))
    _invoke(
        made,
        tmp_path,
        *("--tasks", "sequential", "--engines", "podx", "--variant", f"copy={made.bundle}"),
        *("--source-length", str(length), "--speed-users", "2", "--batch-sizes", "2", "--rounds", "1"),
        *("--stream-users", "7", "--stream-batch", "3", "--accuracy-users", "4", "--threads", "1"),
    )
    results = BENCH_FILE.read(tmp_path / BENCH_FILE.name)
    engines = {"podx", "podx-copy"}
    assert {record.engine for record in results.speed} == {record.engine for record in results.stream} == engines
    assert {r.source_tokens_max for r in results.speed} == {length}
    streams = {record.engine: record for record in results.stream}
    assert (streams["podx"].users, streams["podx"].batch_size) == (7, 3)
    copy = next(record for record in results.accuracy if record.engine == "podx-copy")
    assert (copy.overlap, copy.overlap_with, copy.overlap_users) == (1.0, "podx", 4)
    assert results.variants["podx-copy"]["precision"] == "fp32" and results.variants["podx-copy"]["bundle_mb"] > 0
    depth = bundle.catalog.trie.depth
    assert {(r.batch_size, r.decoding_steps) for r in results.speed} == {(2, depth + 1)}
    assert "podx-copy" in results.engines and str(made.bundle) not in (tmp_path / BENCH_FILE.name).read_text()


def test_many_requests_in_one_call_get_the_answers_of_few(made: Made) -> None:
    bundle, dataset = Bundle.load(made.bundle), Dataset.load(made.data)
    requests = build_workload(Task.SEQUENTIAL, dataset, bundle, 5, 0).requests
    at_once = EagerEngine(context_of(made), "encode-once", constrained=True).run(requests)
    in_parts = EagerEngine(replace(context_of(made), batch_size=2), "encode-once", constrained=True).run(requests)
    assert [answer.items for answer in in_parts] == [answer.items for answer in at_once]


def test_eager_reads_the_words_that_the_bundle_keeps(made: Made, tmp_path: Path) -> None:
    export_checkpoint(made.checkpoint, tmp_path / "worded", parity_users=1, inference="discrete")
    bundle, dataset = Bundle.load(made.bundle), Dataset.load(made.data)
    requests = build_workload(Task.SEQUENTIAL, dataset, bundle, 5, 0).requests
    worded = replace(context_of(made), bundle=tmp_path / "worded")
    eager, bare = (EagerEngine(c, "encode-once", constrained=True).run(requests) for c in (worded, context_of(made)))
    ours = RuntimeEngine(worded, "vocabulary").run(requests)
    assert [answer.items for answer in eager] == [answer.items for answer in ours]
    assert [answer.items for answer in eager] != [answer.items for answer in bare]


@pytest.mark.usefixtures("here")
def test_a_stream_can_be_all_that_is_measured(made: Made, tmp_path: Path) -> None:
    options = BenchOptions(
        tasks=(Task.SEQUENTIAL,), engines=("podx",), speed=False, accuracy=False, stream_users=3, threads=1
    )
    results = BenchRun(made.inputs, tmp_path, options).measure()
    assert [(r.engine, r.users) for r in results.stream] == [("podx", 3)]
    assert results.speed == results.accuracy == results.gemm == results.notes == ()


@pytest.mark.usefixtures("here")
def test_a_stream_without_time_is_said(made: Made, tmp_path: Path) -> None:
    options = BenchOptions(
        tasks=(Task.SEQUENTIAL,), engines=("podx",), speed=False, accuracy=False, stream_users=3, max_minutes=1e-6
    )
    results = BenchRun(made.inputs, tmp_path, options).measure()
    assert results.stream == ()
    assert results.notes == ("sequential: the time ended before the pass of podx",)


@pytest.mark.usefixtures("here")
def test_explanations_are_timed_and_scored(made: Made, tmp_path: Path) -> None:
    output = _invoke(
        made,
        tmp_path,
        *("--tasks", "explanation", "--engines", "podx", "--batch-sizes", "2", "--rounds", "1"),
    )
    results = BENCH_FILE.read(tmp_path / BENCH_FILE.name)
    (record,) = results.accuracy
    assert record.users == 2 and record.metrics.keys() == {"bleu_4", "rouge_1", "rouge_2", "rouge_l"}
    assert len(_find(results, "podx", "explanation")) == 1
    assert output.strip().splitlines()[-1] == f"report: {tmp_path / HTML_FILE}"


@pytest.mark.usefixtures("here")
def test_unconstrained_answers_are_counted_not_mended(made: Made, tmp_path: Path) -> None:
    engines = ("encode-once-unconstrained", "podx-unconstrained")
    options = BenchOptions(tasks=(Task.SEQUENTIAL,), engines=engines, speed=False, users=2, threads=1)
    results = BenchRun(made.inputs, tmp_path, options).measure()
    records = {record.engine: record for record in results.accuracy}
    for name in engines:
        assert records[name].users == 2
        assert records[name].metrics["invalid"] > 0  # an untrained model seldom writes an item
    assert records["podx-unconstrained"].overlap_with == "encode-once-unconstrained"


@pytest.mark.usefixtures("here")
def test_time_that_is_up_is_reported(made: Made, tmp_path: Path) -> None:
    options = BenchOptions(tasks=(Task.SEQUENTIAL,), engines=("podx",), max_minutes=1e-6, threads=1)
    results = BenchRun(made.inputs, tmp_path, options).measure()
    assert results.speed == ()
    assert [record.engine for record in results.accuracy] == ["popularity", "max(history)+1", "near user numbers"]
    assert any("the time ended" in note for note in results.notes)


def test_what_will_be_done_is_said_with_an_estimate_and_tables_have_five_columns(
    ranked: tuple[Results, Path],
) -> None:
    said = (ranked[1] / OUTPUT).read_text()
    assert "sequential on as-published, encode-once, podx, podx-steps, podx-vocabulary." in said
    assert "Speed: 4 users in batches of 1 and 4, 1 rounds." in said
    assert "Accuracy: 30 users (--accuracy-users), as-published, encode-once on the first 12 (--eager-users)." in said
    assert "This takes less than a minute" in said or "This takes about" in said
    headers = [line.split() for line in said.splitlines() if "engine" in line and "batch" in line]
    assert ["┃", "engine", "┃", "batch", "┃", "ms/user", "┃", "users/s", "┃", "×", "┃"] in headers


def test_ctrl_c_keeps_what_was_measured(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("podx_bench.run.run.BenchRun._accuracy", interrupted)
    arguments = [str(made.bundle), "--data", str(made.data), "--out", str(tmp_path), "--tasks", "sequential"]
    options = ["--engines", "podx", "--batch-sizes", "2", "--rounds", "1", "--threads", "1"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 130
    results = BENCH_FILE.read(tmp_path / BENCH_FILE.name)
    assert [record.engine for record in results.speed] == ["podx"] and results.accuracy == ()
    assert results.notes == (INTERRUPTED,)
    assert INTERRUPTED in (tmp_path / MARKDOWN_FILE).read_text() and INTERRUPTED in done.output


def test_another_dataset_or_scheme_is_refused(made: Made, tmp_path: Path) -> None:
    small_world(prefix="other").save(tmp_path / "data")
    with pytest.raises(ConfigError, match="items differ from the dataset's"):
        BenchRun(Inputs(made.bundle, tmp_path / "data"), tmp_path / "out", BenchOptions(engines=("podx",))).measure()
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_is_refused(made: Made, tmp_path: Path) -> None:
    options = TrainOptions(epochs=0, device="cpu", prompts=5, tasks=(Task.SEQUENTIAL, Task.TOPN))
    train_model(Dataset.load(made.data), tmp_path / "other", options, Source(preset="tiny", pieces=120))
    with pytest.raises(CheckpointError, match="not exported from this checkpoint"):
        EagerEngine(context_of(made, checkpoint=tmp_path / "other"), "encode-once", constrained=True)


def test_an_engine_that_fits_no_task_is_refused(made: Made, tmp_path: Path) -> None:
    options = BenchOptions(tasks=(Task.EXPLANATION,), engines=("podx", "podx-steps"))
    with pytest.raises(ConfigError, match="podx-steps cannot do any of the tasks explanation"):
        BenchRun(made.inputs, tmp_path / "out", options).measure()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(made: Made, tmp_path: Path) -> None:
    options = BenchOptions(tasks=(Task.SEQUENTIAL,), engines=("podx",), device="cuda", users=1)
    with pytest.raises(DeviceError, match="engine podx: CUDA was asked for"):
        BenchRun(made.inputs, tmp_path / "out", options).measure()
    with pytest.raises(DeviceError, match="torch finds no usable GPU"):
        EagerEngine(context_of(made, device="cuda"), "encode-once", constrained=True)
