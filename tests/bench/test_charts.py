"""What is drawn from which results."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from podx_bench.harness.records import Results, RooflineRecord
from podx_bench.report.charts import (
    accuracy_chart,
    beam_charts,
    colours,
    latency_chart,
    stream_chart,
    tail_chart,
    tradeoff_chart,
)
from tests.bench.records import ranking_record, speed_record, stream_record

SEQUENTIAL = "sequential"


def texts(svg: str) -> list[str]:
    """Everything written in a drawing."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def drawn(kind: Callable[[Results, str], str | None], results: Results) -> str:
    """The sequential task's chart of a kind."""
    chart = kind(results, SEQUENTIAL)
    assert chart is not None
    return chart


def roofline(batch_size: int, precision: str) -> RooflineRecord:
    return RooflineRecord("sequential", batch_size, precision, 44.0, 4, 4.6, 30.0)


@pytest.fixture
def varied(canned: Results) -> Results:
    """Two batch sizes, a variant, rooflines."""
    engines = ("encode-once", "podx", "podx-int8")
    speed = tuple(
        speed_record(name, ms, size) for size in (1, 32) for name, ms in zip(engines, (200, 40, 20), strict=True)
    )
    accuracy = (ranking_record("popularity", 0.01), ranking_record("encode-once", 0.04, users=5))
    return dataclasses.replace(
        canned,
        options={**canned.options, "engines": list(engines)},
        variants={"podx-int8": {"precision": "int8"}},
        speed=speed,
        accuracy=(*accuracy, ranking_record("podx", 0.05), ranking_record("podx-int8", 0.049)),
        rooflines=tuple(roofline(size, precision) for size in (1, 32) for precision in ("fp32", "int8")),
        stream=(stream_record("podx", (10.0,), 9.0),),
    )


def test_latency_is_drawn_over_batch_sizes_with_the_roofline_of_every_precision(varied: Results) -> None:
    chart = drawn(latency_chart, varied)
    written = texts(chart)
    assert {"encode-once", "podx", "podx-int8", "roofline fp32", "roofline int8"} <= set(written)
    assert {"1", "32", "batch size"} <= set(written)


def test_a_roofline_of_a_precision_that_nothing_has_is_left_out(varied: Results) -> None:
    ours = tuple(record for record in varied.speed if record.engine == "podx")
    fp32 = {**varied.options, "engines": ["podx"]}
    chart = drawn(latency_chart, dataclasses.replace(varied, variants={}, options=fp32, speed=ours))
    assert "roofline fp32" in texts(chart) and "roofline int8" not in texts(chart)
    peers = {**varied.options, "engines": ["podx", "ctranslate2-int8"]}
    chart = drawn(latency_chart, dataclasses.replace(varied, variants={}, options=peers, speed=ours))
    assert "roofline int8" in texts(chart)


def test_one_batch_size_gives_bars(varied: Results) -> None:
    chart = drawn(latency_chart, dataclasses.replace(varied, speed=varied.speed[:3]))
    assert "sequential, batch size 1" in texts(chart)
    assert {"200", "40", "20", "roofline fp32"} <= set(texts(chart))
    assert tail_chart(dataclasses.replace(varied, speed=varied.speed[:3]), SEQUENTIAL) is None


def test_tails_are_drawn_against_throughput(varied: Results) -> None:
    chart = drawn(tail_chart, varied)
    assert {"users per second", "p99 of a call, ms", "podx-int8"} <= set(texts(chart))


def test_speed_is_drawn_against_accuracy_on_the_same_users(varied: Results) -> None:
    chart = drawn(tradeoff_chart, varied)
    assert {"podx", "podx-int8", "HR@10"} <= set(texts(chart))
    assert not {"encode-once", "popularity"} & set(texts(chart))  # fewer users; no speed
    alone = dataclasses.replace(varied, accuracy=varied.accuracy[:3])
    assert tradeoff_chart(alone, SEQUENTIAL) is None


def test_a_model_that_hits_nothing_is_judged_by_agreement(varied: Results) -> None:
    int8 = dataclasses.replace(ranking_record("podx-int8", 0.0), overlap=0.97, overlap_with="podx", overlap_users=100)
    other = dataclasses.replace(ranking_record("encode-once", 0.0), overlap=0.5, overlap_with="elsewhere")
    untrained = dataclasses.replace(varied, accuracy=(ranking_record("podx", 0.0), int8, other))
    chart = drawn(tradeoff_chart, untrained)
    assert "share of podx's top 10" in texts(chart) and "encode-once" not in texts(chart)


def test_streams_are_drawn_where_there_are_any(varied: Results, canned: Results) -> None:
    chart = drawn(stream_chart, varied)
    assert {"sequential: 2,048 users in one call", "205"} <= set(texts(chart))
    assert stream_chart(canned, SEQUENTIAL) is None


def test_rows_that_learn_nothing_have_a_colour_of_their_own(varied: Results) -> None:
    palette = colours(varied)
    assert len({palette[name] for name in ("encode-once", "podx", "podx-int8", "popularity")}) == 4
    assert palette["popularity"] == palette["random"]
    chart = drawn(accuracy_chart, varied)
    assert palette["popularity"] in chart and palette["podx-int8"] in chart


def test_text_is_large_enough_for_a_phone(varied: Results) -> None:
    """A phone shows a drawing about 360 px wide; its smallest text should then have 9 px or more."""
    for kind in (latency_chart, tail_chart, accuracy_chart, tradeoff_chart):
        chart = drawn(kind, varied)
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', chart).group(1))  # type: ignore[union-attr]
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", chart)]
        assert sizes and min(sizes) * 360 / width >= 9


def test_beams_are_drawn_where_runs_of_one_model_differ_in_them(varied: Results) -> None:
    few, many = (dataclasses.replace(varied, options={**varied.options, "beams": beams}) for beams in (10, 50))
    ours = tuple(record for record in many.speed if record.engine != "encode-once")
    alone = {**many.options, "engines": ["podx", "podx-int8"]}
    charts = beam_charts([dataclasses.replace(many, speed=ours, options=alone), few])
    assert len(charts) == 2, "batch sizes 1 and 32"
    for chart in charts:
        assert {"beams", "podx", "podx-int8", "10", "50"} <= set(texts(chart)) and "encode-once" not in texts(chart)
    assert beam_charts([few, few]) == []
    assert beam_charts([few, dataclasses.replace(many, model={**many.model, "layers": 99})]) == []
