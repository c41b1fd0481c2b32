"""The table of ratios."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from podx.errors import ConfigError
from podx_bench.harness.records import BENCH_FILE, Results, SpeedRecord, StreamRecord
from podx_bench.report.__main__ import main
from podx_bench.report.ratios import ratio_headline, ratio_table
from tests.bench.records import invoke, speed_record, stream_record

ROUNDS = {
    "encode-once": (100.0, 900.0, 100.0),
    "podx": (10.0, 90.0, 20.0),
    "podx-int8": (5.0, 30.0, 4.0),
    "ctranslate2": (20.0, 180.0, 30.0),
    "ctranslate2-int8": (10.0, 60.0, 8.0),
    "optimum": (40.0, 360.0, 80.0),
}


def timed(engine: str, batch_size: int, tokens: float) -> SpeedRecord:
    record = dataclasses.replace(speed_record(engine, 1.0, batch_size), round_ms=ROUNDS[engine])
    return dataclasses.replace(record, source_tokens_mean=tokens, source_tokens_max=50, decoding_steps=4)


def streamed(engine: str) -> StreamRecord:
    return stream_record(engine, ROUNDS[engine])


@pytest.fixture
def run(canned: Results) -> Results:
    """A run at one length, with a variant and peers."""
    return dataclasses.replace(
        canned,
        options={**canned.options, "source_length": 41},
        variants={"podx-int8": {"precision": "int8"}},
        speed=tuple(timed(engine, size, 41.0) for size in (32, 8) for engine in ROUNDS),
        stream=(streamed("encode-once"), streamed("podx-int8")),
    )


def test_ratios_are_medians_of_paired_rounds_by_precision(run: Results) -> None:
    table = ratio_table([run])
    assert table.header[2:] == ("against encode-once", "against ctranslate2, as precise")
    assert table.rows == (
        ("sequential, source 41, batch 8", "fp32 / int8", "10.0× / 25.0×", "2.0× / 2.0×"),
        ("sequential, source 41, batch 32", "fp32 / int8", "10.0× / 25.0×", "2.0× / 2.0×"),
        ("sequential, stream of 2,048 users, batch 32", "int8", "25.0×", "–"),
    )


def test_other_engines_are_what_they_are_in_every_precision(run: Results) -> None:
    table = ratio_table([run], ["optimum"])
    assert table.header[2:] == ("against optimum",)
    assert table.rows[0][2] == "4.0× / 12.0×"


def test_a_peer_of_another_precision_is_no_measure(run: Results) -> None:
    without = dataclasses.replace(run, speed=tuple(r for r in run.speed if r.engine != "ctranslate2-int8"))
    assert ratio_table([without]).rows[0][3] == "2.0× / –"


def test_a_length_that_varies_is_called_a_mean_and_an_unknown_one_not_at_all(run: Results) -> None:
    short = dataclasses.replace(run, speed=tuple(timed(engine, 1, 40.6) for engine in ROUNDS), stream=())
    unknown = dataclasses.replace(run, speed=(speed_record("encode-once", 20.0), speed_record("podx", 2.0)), stream=())
    names = [row[0] for row in ratio_table([short, unknown]).rows]
    assert names == ["sequential, batch 1", "sequential, mean source 41, batch 1"]


def test_equal_cells_of_several_runs_stay_apart(run: Results) -> None:
    other = dataclasses.replace(run, label="again", speed=tuple(timed(e, 8, 41.0) for e in ("encode-once", "podx")))
    rows = ratio_table([run, other]).rows
    assert [row[0] for row in rows if "batch 8" in row[0]] == [
        "sequential, source 41, batch 8 (Beauty <paper>)",
        "sequential, source 41, batch 8 (again)",
    ]


def test_runs_of_podx_alone_have_no_ratios(run: Results) -> None:
    alone = dataclasses.replace(run, speed=(timed("podx", 1, 41.0),), stream=())
    with pytest.raises(ConfigError, match="no run timed podx beside another engine"):
        ratio_table([alone])


def test_the_command_prints_markdown_from_files(run: Results, tmp_path: Path) -> None:
    runs = (run, dataclasses.replace(run, label="b"))
    paths = [str(BENCH_FILE.write(tmp_path / str(number), one)) for number, one in enumerate(runs)]
    done = invoke(main, ["--ratios", *paths, "--against", "encode-once, optimum"])
    assert "| sequential, source 41, batch 8 (b) | fp32 / int8 | 10.0× / 25.0× | 4.0× / 12.0× |" in done.stdout


def test_a_report_opens_with_the_range_of_ratios(run: Results) -> None:
    assert ratio_headline([run]) == (
        "On the same requests podx is 10.0 to 10.0 times as fast as encode-once in fp32 and "
        "25.0 to 25.0 times as fast as encode-once in int8."
    )
    alone = dataclasses.replace(run, speed=(timed("podx", 1, 41.0),), stream=())
    assert ratio_headline([alone]) == ""
