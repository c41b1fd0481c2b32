"""The scale bench on small catalogues: what it makes, measures, writes and shows."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from podx.bundle.bundle import TOKENIZER_FILE
from podx.errors import ConfigError, DataError
from podx_bench.cli.app import app
from podx_bench.harness.child import EngineError
from podx_bench.harness.options import parse_numbers
from podx_bench.pages.table import NONE
from podx_bench.scale.records import SCALE_FILE, ScaleOptions, ScaleRecord, ScaleResults
from podx_bench.scale.report import scale_charts, scale_table
from podx_bench.scale.run import TARGETS, run_scale
from podx_bench.scale.server import (
    CODES,
    FIRST_CODE_TOKEN,
    LEVELS,
    VOCABULARY_NEEDED,
    make_catalog,
    step_ms,
    synthetic_items,
)
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.bench.conftest import make_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "studies"))
import trie_search

TRAINING = TrainOptions(epochs=0, prompts=2, device="cpu")
TIMED = ("call", "step", "search")
SMALL = ScaleOptions(items=(1000, 3000), batch=3, beams=4, k=2, rounds=2, calls=1, threads=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScaleResults, Path]:
    """A run without a model."""
    out = tmp_path_factory.mktemp("scale") / "out"
    told: list[str] = []
    found = run_scale(out, SMALL, None, told.append)
    assert told[:2] == ["1,000 items: build", "1,000 items: load"] and len(told) == 4
    return found, out


def test_items_are_distinct_and_have_a_code_from_each_book() -> None:
    raw_ids, tokens = synthetic_items(5000, seed=1)
    assert len(set(raw_ids.tolist())) == len(np.unique(tokens, axis=0)) == 5000
    books = (tokens - FIRST_CODE_TOKEN) // CODES
    assert (books == np.arange(LEVELS)).all()
    assert tokens.min() >= FIRST_CODE_TOKEN and tokens.max() < VOCABULARY_NEEDED
    assert {len(raw) for raw in raw_ids.tolist()} == {10}
    assert len(np.unique(tokens)) > 0.95 * LEVELS * CODES
    again = synthetic_items(5000, seed=1)
    assert np.array_equal(again[0], raw_ids) and np.array_equal(again[1], tokens)
    assert not np.array_equal(synthetic_items(5000, seed=2)[1], tokens)


def test_more_items_than_codes_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are only"):
        synthetic_items(CODES**LEVELS + 1, seed=0)


def test_a_catalog_of_them_leads_to_every_item() -> None:
    raw_ids, tokens = synthetic_items(500, seed=0)
    catalog = make_catalog(raw_ids, tokens, end_token=1)
    assert catalog.trie.listed_count == 500 and catalog.trie.depth == LEVELS
    assert catalog.items.number(raw_ids[17].decode()) == 18
    assert catalog.target(18).tolist() == tokens[17].tolist()


def test_a_run_measures_every_size(results: tuple[ScaleResults, Path]) -> None:
    found, out = results
    assert [record.items for record in found.records] == [1000, 3000]
    small, large = found.records
    assert small.disk_mb < large.disk_mb
    for record in found.records:
        figures = dataclasses.asdict(record)
        graph = {f"{name}_{unit}": figures.pop(f"{name}_{unit}") for name in TIMED for unit in ("ms", "ratio")}
        assert set(graph.values()) == {None}
        assert all(value > 0 for value in figures.values())
        assert record.loaded_mb <= record.peak_mb
    assert [path.name for path in out.iterdir()] == [SCALE_FILE.name]  # no catalogue is left behind


def test_results_survive_the_disk(results: tuple[ScaleResults, Path]) -> None:
    found, out = results
    read = SCALE_FILE.read(out / SCALE_FILE.name)
    assert read.records == found.records and read.model == {}
    assert read.options["beams"] == 4 and read.environment["threads"] == 1


# --- with a model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that knows too few tokens."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    train_model(make_dataset(), folder, TRAINING, Source(preset="tiny", pieces=120))
    return folder


@pytest.fixture(scope="module")
def checkpoint(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights with enough tokens."""
    folder = tmp_path_factory.mktemp("wide")
    shape = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY_NEEDED, **shape)).save_pretrained(folder / "backbone")
    shutil.copyfile(small_vocabulary / TOKENIZER_FILE, folder / "backbone" / TOKENIZER_FILE)
    train_model(make_dataset(), folder / "checkpoint", TRAINING, Source(backbone=str(folder / "backbone")))
    return folder / "checkpoint"


def test_a_run_with_a_model_times_its_graph(checkpoint: Path, tmp_path: Path) -> None:
    found = run_scale(tmp_path / "out", SMALL, checkpoint, lambda _: None)
    small, large = found.records
    assert (small.call_ratio, small.step_ratio) == (1.0, 1.0) and found.model["width"] == 16
    for record in found.records:  # a step may take less than nothing where the machine is busy with other work
        assert record.call_ms is not None and record.call_ms > 0 and record.step_ms is not None
    assert large.call_ratio is not None and large.call_ratio > 0 and large.step_ratio is not None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [SCALE_FILE.name]


def test_a_step_is_what_the_call_takes_beyond_the_encoder() -> None:
    assert step_ms(call_ms=30.0, encoder_ms=10.0) == 4.0  # four codes and the end of sequence


def test_a_model_with_too_few_tokens_is_refused(small_vocabulary: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the synthetic items take 1,027"):
        run_scale(tmp_path / "out", SMALL, small_vocabulary, lambda _: None)


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot read"),
        ("[]", "no results of podx bench scale"),
        ("{}", "no results of podx bench scale"),
        ('{"format": "podx-scale", "format_version": 99}', "format version 99"),
        ('{"format": "podx-scale", "format_version": 1}', "is damaged"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / SCALE_FILE.name).write_text(content)
    with pytest.raises(DataError, match=said):
        SCALE_FILE.read(tmp_path / SCALE_FILE.name)


def with_graph(results: ScaleResults) -> ScaleResults:
    records = [
        dataclasses.replace(r, call_ms=80.0, call_ratio=1.0, step_ms=8.0, step_ratio=1.03) for r in results.records
    ]
    return dataclasses.replace(results, records=tuple(records), model={"width": 512})


def test_the_table_says_what_was_measured(results: tuple[ScaleResults, Path]) -> None:
    found, _ = results
    table = scale_table(found)
    assert [row[0] for row in table.rows] == ["1,000", "3,000"]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert all(len(row) == 7 and NONE not in row for row in table.rows) and len(table.notes) == 1
    graph = scale_table(with_graph(found))
    assert graph.rows[1][7:] == ("8", "1.03×", "80", "1.00×") and "recommend.onnx" in graph.notes[1]
    older = [dataclasses.replace(record, search_ms=2.0, search_ratio=1.5) for record in with_graph(found).records]
    trie = scale_table(dataclasses.replace(found, records=tuple(older)))
    assert trie.rows[1][7:] == ("2", "1.50×", "8", "1.03×", "80", "1.00×") and "Trie" in trie.notes[-1]


def test_the_charts_draw_every_size(results: tuple[ScaleResults, Path]) -> None:
    found, _ = results
    charts = scale_charts(found)
    assert len(charts) == 2 and all(chart.startswith("<svg") for chart in charts)
    assert charts == scale_charts(found)
    assert ">graph<" in scale_charts(with_graph(found))[2] and len(scale_charts(with_graph(found))) == 3
    assert scale_charts(dataclasses.replace(found, records=found.records[:1])) == []


@pytest.mark.parametrize("step", ["build", "Server"])
def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (tmp_path / "dying.py").write_text("import os\ndef die(*_):\n    os._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(TARGETS, step, "dying:die")
    with pytest.raises(EngineError, match=r"the process of the catalog of 1,000 items died with status 1"):
        run_scale(tmp_path / "out", SMALL, None, lambda _: None)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "wrong",
    [{"items": ()}, {"items": (1, 10)}, {"items": (10**9,)}, {"threads": -1}, {"batch": 0}, {"items": (5,)}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScaleOptions(**wrong)  # type: ignore[arg-type]


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_numbers("1e5, 1000,1e3", "--items") == (1000, 100_000)
    for wrong in ("", "a", "1.5", "1e400", "nan"):
        with pytest.raises(ConfigError, match="--items must be whole numbers"):
            parse_numbers(wrong, "--items")


def test_the_trie_part_of_a_step_is_timed_by_a_script() -> None:
    found = trie_search.measure(SMALL)
    assert list(found) == [1000, 3000] and found[1000][1] == 1.0
    assert all(ms > 0 and ratio > 0 for ms, ratio in found.values())


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    small = ("--batch-size", "2", "--beams", "2", "-k", "2", "--rounds", "1", "--calls", "1", "--threads", "1")
    arguments = ["scale", "--out", str(tmp_path), "--items", "50,100", *small]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "Scale of the catalog" in said and SCALE_FILE.name in said
    content = json.loads((tmp_path / SCALE_FILE.name).read_text(encoding="utf-8"))
    assert [ScaleRecord(**record).items for record in content["records"]] == [50, 100]
