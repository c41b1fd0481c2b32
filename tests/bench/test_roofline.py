"""What arithmetic allows: the count of operations, the machine's rate, and the two together."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from podx.errors import ConfigError
from podx_bench.harness.child import EngineError
from podx_bench.harness.records import BENCH_FILE, GemmRecord, Results, SpeedRecord
from tests.bench.records import speed_record
from tests.bench.world import Made

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "studies"))
import roofline
from roofline import (
    COLUMNS,
    INNER,
    INT8_LIMIT,
    ROWS,
    Arithmetic,
    measure,
    measure_apart,
    product_graph,
    rate_at,
    rooflines,
)

T5_SMALL = {
    "d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6,
    "feed_forward_proj": "relu",
}  # fmt: skip
SOURCE = 41


def record(precision: str, rows: int, rate: float) -> GemmRecord:
    return GemmRecord(precision, "MatMul", rows, 512, 2048, rate, 10, 2)


def timed(batch_size: int) -> SpeedRecord:
    """A record of inputs that have as many tokens with three prompt vectors."""
    record = speed_record("encode-once", 1.0, batch_size)
    return dataclasses.replace(record, source_tokens_mean=SOURCE - 3, decoding_steps=4)


def test_t5_small_does_the_work_that_was_counted_by_hand() -> None:
    work = Arithmetic.of_backbone(T5_SMALL)
    assert SOURCE * work.encoder_ops / 1e9 == pytest.approx(1.55, abs=0.005)
    assert SOURCE * work.memory_ops / 1e9 == pytest.approx(0.26, abs=0.005)
    assert work.beam_ops / 1e9 == pytest.approx(0.044, abs=0.0005)


def test_a_gated_feed_forward_part_has_a_third_matrix() -> None:
    plain, gated = (Arithmetic.of_backbone({**T5_SMALL, "feed_forward_proj": kind}) for kind in ("relu", "gated-gelu"))
    assert gated.encoder_ops - plain.encoder_ops == 2 * 6 * 512 * 2048
    assert gated.beam_ops - plain.beam_ops == 2 * 6 * 512 * 2048
    assert gated.memory_ops == plain.memory_ops


def test_a_decoder_may_be_deeper_and_heads_wider_than_the_model() -> None:
    wide = Arithmetic.of_backbone({**T5_SMALL, "num_decoder_layers": 2, "d_kv": 128})
    assert wide.memory_ops == 2 * 2 * 2 * 512 * 1024
    assert wide.beam_ops == 2 * 2 * (6 * 512 * 1024 + 2 * 512 * 2048)
    assert wide.encoder_ops == 2 * 6 * (4 * 512 * 1024 + 2 * 512 * 2048)


def test_a_rate_is_of_the_next_larger_shape_and_never_below_a_smaller_ones() -> None:
    measured = [record("fp32", 1408, 150.0), record("fp32", 20, 100.0), record("fp32", 640, 90.0)]
    assert rate_at(measured, "fp32", 1) == rate_at(measured, "fp32", 20) == 100e9
    assert rate_at(measured, "fp32", 21) == 100e9  # the larger shape was measured slower, so that is noise
    assert rate_at(measured, "fp32", 641) == rate_at(measured, "fp32", 10**6) == 150e9
    assert rate_at(measured, "int8", 20) is None


def test_a_roofline_is_operations_over_rate() -> None:
    measured = [record("fp32", 20, 100.0), record("fp32", 2000, 200.0), record("int8", 20, 400.0)]
    work = Arithmetic.of_backbone(T5_SMALL)
    fp32, int8 = rooflines(timed(32), work, measured, 3, 20)
    total = SOURCE * work.encoder_ops + SOURCE * work.memory_ops + 61 * work.beam_ops
    assert fp32.giga_ops == pytest.approx(total / 1e9)
    assert fp32.giga_ops == pytest.approx(4.49, abs=0.01)
    assert fp32.ms_per_user == pytest.approx(1e3 * total / 200e9)  # even 32 first beams are more than 20 rows
    assert int8.ms_per_user == pytest.approx(1e3 * total / 400e9)
    single, _ = rooflines(timed(1), work, measured, 3, 20)
    assert rooflines(speed_record("encode-once", 1.0), work, measured, 3, 20) == []  # its lengths are not known
    few = 61 * work.beam_ops
    assert single.ms_per_user == pytest.approx(1e3 * ((total - few) / 200e9 + few / 100e9))


def test_graphs_multiply_in_their_precision() -> None:
    x = np.random.default_rng(3).standard_normal((4, INNER), dtype=np.float32)
    for precision, scale in (("fp32", 1.0), ("int8", 1 / INT8_LIMIT)):
        model = product_graph(precision)
        weight = next(np.frombuffer(w.raw_data, np.float32 if precision == "fp32" else np.int8)
                      for w in model.graph.initializer if w.name == "weight")  # fmt: skip
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x})
        expected = x @ (weight.reshape(INNER, COLUMNS).astype(np.float32) * scale)
        assert np.abs(y - expected).max() < 0.02 * np.abs(expected).max()


def test_every_precision_and_shape_has_a_rate() -> None:
    records = list(measure(threads=1, spin=False, seconds=0.0))
    assert [(r.precision, r.rows) for r in records] == [(p, rows) for p in ("fp32", "int8") for rows in ROWS]
    assert all(r.giga_ops_per_s > 0 and r.calls >= roofline.LEAST_CALLS for r in records)


def test_a_process_that_fails_is_an_error_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "MEASURE", "roofline:no_such_function")
    with pytest.raises(EngineError, match=r"(?s)leave the roofline out.*no_such_function"):
        measure_apart(1, spin=False)


def test_results_get_the_rate_and_the_roofline_of_every_cell(
    canned: Results, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def measured(*arguments: object) -> tuple[GemmRecord, ...]:
        asked.append(arguments)
        return record("fp32", 20, 100.0), record("int8", 20, 400.0)

    monkeypatch.setattr(roofline, "measure_apart", measured)
    speed = tuple(dataclasses.replace(one, engine="podx") for one in (timed(1), timed(32)))
    run = dataclasses.replace(canned, speed=(timed(1), *speed), options={**canned.options, "spin": True})
    path = BENCH_FILE.write(tmp_path, run)
    roofline.main(path, None)
    assert asked == [(2, True)] and len(BENCH_FILE.read(path).gemm) == 2 and BENCH_FILE.read(path).rooflines == ()
    roofline.main(path, made.checkpoint)
    results = BENCH_FILE.read(path)
    assert [(r.precision, r.batch_size, r.decoding_steps) for r in results.rooflines] == [
        (precision, size, 4) for size in (1, 32) for precision in ("fp32", "int8")
    ]
    assert results.rooflines[0].source_tokens == SOURCE  # the model's three prompt vectors counted
    assert "Roofline" in (tmp_path / "report.md").read_text()
    on_gpu = dataclasses.replace(run, environment={**run.environment, "device": "cuda"})
    with pytest.raises(ConfigError, match="measured on a CPU"):
        roofline.with_rooflines(on_gpu, None)
