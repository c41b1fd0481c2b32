"""Results on disk, and the reports made from them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from podx.errors import ConfigError, DataError
from podx.text.templates import Task
from podx_bench.engines import ENGINES
from podx_bench.harness.records import BENCH_FILE, GemmRecord, Results, RooflineRecord
from podx_bench.pages.render import html_report, markdown_report, write_report
from podx_bench.pages.table import TextTable
from podx_bench.report.__main__ import main
from podx_bench.report.bench import bench_report, scale_sections
from podx_bench.report.tables import ACCURACY, SPEED, all_tables, grouped
from podx_bench.scale.records import SCALE_FILE, ScaleRecord, ScaleResults
from tests.bench.records import invoke, ranking_record, speed_record, stream_record


def tables_of(*runs: Results) -> list[TextTable]:
    """Every table of the report of runs."""
    return [table for section in bench_report(runs).sections for table in section.tables]


def table_of(run: Results, field: str) -> TextTable:
    """The only table of a run's records of a kind."""
    (table,) = all_tables(grouped([run]), field)
    return table


def test_results_read_back_as_written(canned: Results, tmp_path: Path) -> None:
    path = BENCH_FILE.write(tmp_path / "out", canned)
    assert path == tmp_path / "out" / BENCH_FILE.name
    assert BENCH_FILE.read(path) == canned
    assert [file.name for file in path.parent.iterdir()] == [BENCH_FILE.name]


def test_results_have_the_promised_fields(canned: Results, tmp_path: Path) -> None:
    content = json.loads(BENCH_FILE.write(tmp_path, canned).read_text())
    promised = {"engine", "task", "batch_size", "p50_ms", "p95_ms", "users_per_s", "peak_rss_mb"}
    assert all(promised <= record.keys() for record in content["speed"])
    assert content["accuracy"][0]["metrics"]["hr_10"] == 0.0115


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "no results of podx bench"),
        ('{"format": "other"}', "no results of podx bench"),
        ('{"format": "podx-bench", "format_version": 99}', "format version 99"),
        ('{"format": "podx-bench", "format_version": 1, "speed": [{}], "accuracy": []}', "damaged"),
    ],
)
def test_foreign_files_are_named_errors(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / BENCH_FILE.name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        BENCH_FILE.read(path)


COMMITTED = sorted((Path(__file__).parents[2] / "bench" / "results").glob("*/results.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_results_of_older_runs_are_still_read(path: Path) -> None:
    results = BENCH_FILE.read(path)
    assert (results.speed or results.accuracy) and f"podx bench: {results.label}" in markdown_report(
        bench_report([results])
    )
    assert "<svg" in html_report(bench_report([results]))


@pytest.fixture
def full(canned: Results) -> Results:
    """With everything that a run can hold."""
    facts = {"source_tokens_mean": 36.2, "source_tokens_max": 79, "decoding_steps": 4}
    stream = stream_record("podx", (10.0, 11.0), 9.0, **facts)
    int8 = dataclasses.replace(
        ranking_record("podx-int8", 0.04), overlap=0.97, overlap_with="podx", overlap_users=100, hr_10_loss=0.0125
    )
    timed = dataclasses.replace(
        speed_record("podx-int8", 20.0), source_tokens_mean=41.0, source_tokens_max=41, decoding_steps=4
    )
    return dataclasses.replace(
        canned,
        options={**canned.options, "engines": [*canned.options["engines"], "podx-int8"]},
        speed=(*canned.speed, timed),
        accuracy=(*canned.accuracy, int8),
        variants={
            "podx-int8": {"precision": "int8", "bundle_mb": 62.5, "parity": {"overlap": 0.98765, "lists": [1, 2]}}
        },
        stream=(stream,),
        gemm=tuple(GemmRecord("fp32", "MatMul", rows, 512, 2048, 150.2, 10, 2) for rows in (20, 640)),
        rooflines=(RooflineRecord("sequential", 1, "fp32", 44.0, 4, 4.62, 30.8),),
    )


def test_everything_reads_back_as_written(full: Results, tmp_path: Path) -> None:
    assert BENCH_FILE.read(BENCH_FILE.write(tmp_path, full)) == full


def test_a_full_report_has_bundles_streams_and_rooflines(full: Results) -> None:
    text = markdown_report(bench_report([full]))
    assert "- **bundle of podx-int8**: int8, 62.5 MB; at export: overlap 0.9877, lists 1; 2" in text
    assert "fp32 150 / 150 · 10⁹ operations/s through ONNX Runtime, 20 / 640 rows by 512 × 2,048 weights" in text
    assert "| podx | 2,048 | 32 | 10 | 4.88 | 205 | 9.00× | – | 500 | 2 | 36.2 / 79 |" in text
    assert "| encode-once | not measured |" in text
    assert "| sequential | 1 | fp32 | 44.0 | 4.62 | 30.8 |" in text
    assert "97.00 % of podx | 1.25 % |" in text
    assert "Sequential, 2,048 users in one call: podx 4.88 ms per user." in text
    assert "| 41.0 / 41 |" in text and "end of sequence included where it is scored: 4." in text
    for table in tables_of(full):
        assert {len(row) for row in table.rows} == {len(table.header)}, table.title


def test_engines_that_only_time_have_no_row_of_accuracy(canned: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "as-published", dataclasses.replace(ENGINES["as-published"], speed_only=True))
    accuracy = table_of(canned, ACCURACY)
    assert [row[0] for row in accuracy.rows] == ["popularity", "encode-once", "podx"]


def test_the_scale_bench_joins_a_report(canned: Results, tmp_path: Path) -> None:
    scale = ScaleResults(
        canned.environment,
        {"rounds": 2, "batch": 32, "beams": 20},
        {},
        tuple(ScaleRecord(n, 1, 1, 3, 1, 9, 9, 1.0, 1.0) for n in (1000, 10000)),
    )
    BENCH_FILE.write(tmp_path, canned)
    options = ["--scale", str(SCALE_FILE.write(tmp_path, scale))]
    for command in (
        [str(tmp_path / BENCH_FILE.name)],
        [str(tmp_path / BENCH_FILE.name), "--out", str(tmp_path / "compared")],
    ):
        done = invoke(main, [*command, *options])
        page = Path(done.stdout.strip())
        assert page.read_text().count("<svg") > 2 and "Scale of the catalog" in page.read_text()
    assert scale_sections(None) == ()
    with pytest.raises(DataError):
        scale_sections(tmp_path / BENCH_FILE.name)


def test_streams_are_compared_and_lengths_kept_apart(full: Results) -> None:
    fixed = dataclasses.replace(full, options={**full.options, "source_length": 41})
    stream = {table.title: table for table in tables_of(full, fixed)}["All users in one call, sequential"]
    assert stream.header[:7] == ("engine", "run", "runs", "users", "batch", "seconds", "ms/user")
    assert [row[:7] for row in stream.rows if row[0] == "podx"] == [
        ("podx", "Beauty <paper>", "1", "2,048", "32", "10", "4.88"),
        ("podx", "Beauty <paper>, source 41", "1", "2,048", "32", "10", "4.88"),
    ]


def test_rows_that_were_not_run_say_so(canned: Results) -> None:
    speed = table_of(canned, SPEED)
    rows = {(row[0], row[1]): row[2] for row in speed.rows}
    assert rows[("podx", "1")] == "40"
    assert rows[("as-published", "1")] == rows[("podx", "32")] == "not measured"
    accuracy = table_of(canned, ACCURACY)
    users = {row[0]: row[1] for row in accuracy.rows}
    assert users == {"popularity": "100", "as-published": "not measured", "encode-once": "not measured", "podx": "100"}


def test_every_row_is_as_wide_as_its_header(canned: Results) -> None:
    texts = dataclasses.replace(
        canned, options={**canned.options, "tasks": ["sequential", "explanation"]}, speed=(), accuracy=()
    )
    tables = [
        table for run in (canned, texts) for field in (SPEED, ACCURACY) for table in all_tables(grouped([run]), field)
    ]
    assert len(tables) == 2 + 2 * 2
    for table in tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}, table.title


def test_markdown_has_tables_environment_and_notes(canned: Results) -> None:
    text = markdown_report(bench_report([canned]))
    assert "| podx | 1 | 40 | 80 | 120 | 40 | 25 | 5.00× | – | 512 | 1.5 | 4 |" in text
    assert "| podx | 100 | 0.0100 | 0.0200 | 0.0150 | 0.0443 | 0.0250 | 0.00 % | 0.00 % | – |" in text
    assert "Some CPU" in text and "22,363 users" in text and "the time ended" in text


def test_halves_that_were_left_out_are_named(canned: Results) -> None:
    no_speed = dataclasses.replace(canned, options={**canned.options, "speed": False}, speed=())
    assert "Speed was not measured in this run." in markdown_report(bench_report([no_speed]))
    assert "Speed, sequential" not in html_report(bench_report([no_speed]))
    no_accuracy = dataclasses.replace(canned, options={**canned.options, "accuracy": False}, accuracy=())
    assert "Accuracy was not measured in this run." in html_report(bench_report([no_accuracy]))


class _Page(HTMLParser):
    """Collects tags and what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href") and tag in ("img", "script", "link")
        ]


def test_the_page_needs_nothing_from_elsewhere(canned: Results) -> None:
    page = _Page()
    text = html_report(bench_report([canned]))
    page.feed(text)
    assert page.tags.count("svg") == 2  # one cell timed, one task scored
    assert page.loads == [] and "script" not in page.tags
    assert "Beauty &lt;paper&gt;" in text and "<paper>" not in text
    assert 'name="viewport"' in text


def test_the_same_results_give_the_same_page(canned: Results) -> None:
    assert html_report(bench_report([canned])) == html_report(bench_report([canned]))


def test_a_report_is_drawn_again_from_the_file_alone(canned: Results, tmp_path: Path) -> None:
    path = BENCH_FILE.write(tmp_path, canned)
    write_report(bench_report([canned]), tmp_path / "first")
    command = [sys.executable, "-m", "podx_bench.report", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report.html")
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text() == (tmp_path / "first" / name).read_text()


def test_runs_are_compared_by_label(canned: Results, tmp_path: Path) -> None:
    better = tuple(
        dataclasses.replace(record, metrics={**record.metrics, "hr_10": record.metrics["hr_10"] + 0.01})
        for record in canned.accuracy
    )
    runs = [canned, dataclasses.replace(canned, accuracy=better), dataclasses.replace(canned, label="Beauty shuffled")]
    ratios, overview, speed, accuracy = tables_of(*runs)
    assert [row[0] for row in ratios.rows][-1] == "sequential, batch 1 (Beauty shuffled)"
    assert overview.header == ("engine", "Beauty <paper>", "Beauty shuffled")
    cells = {row[0]: row[1:] for row in overview.rows}
    assert cells["podx"] == ("0.0493 ± 0.0071 / 0.0250 ± 0.0000", "0.0443 / 0.0250")
    assert [row[:3] for row in accuracy.rows if row[0] == "podx"] == [
        ("podx", "Beauty <paper>", "2"),
        ("podx", "Beauty shuffled", "1"),
    ]
    assert speed.title == f"Speed, {Task.SEQUENTIAL}"
    page = write_report(bench_report(runs), tmp_path / "compared")
    text = page.read_text()
    assert "<h2>Charts, Beauty shuffled</h2>" in text and text.count("<svg") == 2 * 2  # of each label's first run
    assert "Beauty shuffled" in text and (page.parent / "report.md").exists()


def test_an_engine_missing_from_one_run_is_not_measured_there(canned: Results) -> None:
    other = dataclasses.replace(canned, label="other", accuracy=canned.accuracy[:1])
    overview = tables_of(canned, other)[1]
    assert {row[0]: row[2] for row in overview.rows}["podx"] == "not measured"


def test_a_run_has_no_rows_in_tables_of_what_it_did_not_measure(canned: Results) -> None:
    timed = dataclasses.replace(canned, label="timed", accuracy=())
    ranked = dataclasses.replace(canned, label="ranked", speed=())
    tables = {table.title.split(",")[0]: table for table in tables_of(timed, ranked)}
    assert tables["Overview"].header == ("engine", "ranked")
    assert {row[1] for row in tables["Accuracy"].rows} == {"ranked"}
    assert {row[1] for row in tables["Speed"].rows} == {"timed"}


def test_empty_runs_cannot_be_compared(canned: Results) -> None:
    with pytest.raises(ConfigError, match="neither speed nor accuracy"):
        bench_report([dataclasses.replace(canned, speed=(), accuracy=())] * 2)


def test_a_wrong_path_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "podx_bench.report", str(tmp_path / "none.json"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read") and "Traceback" not in done.stderr
