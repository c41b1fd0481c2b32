"""The machine's own rate of multiplying matrices: what no engine on it can beat.

Measured through ONNX Runtime, which podx runs on, in a process of its own with the threads of the engines: fp32 as
MatMul, int8 as DynamicQuantizeMatMul, whose time holds the quantising of its input. The weight is t5-small's first
feed-forward matrix; the rows are those of one user's 20 beams, of 32 users' beams, and of 32 inputs of 44 tokens.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from podx_bench.harness.child import run_in_child, thread_environment
from podx_bench.harness.records import GemmRecord

ROWS = (20, 640, 1408)
INNER, COLUMNS = 512, 2048
OPERATORS = {"fp32": "MatMul", "int8": "DynamicQuantizeMatMul"}
NODES = {"fp32": "MatMul (x, weight)", "int8": "com.microsoft.DynamicQuantizeMatMul (x, weight, scale)"}
SECONDS_PER_SHAPE = 0.3
LEAST_CALLS, MOST_CALLS, WARM_UP_CALLS = 5, 500, 3
TIMEOUT_S = 120.0
MEASURE = "podx_bench.harness.gemm:measure"
INT8_LIMIT = 64
"""Weights within it are multiplied exactly on every processor: two products of uint8 and int8 fit into int16."""
GIGA = 1e9
OPS_PER_PRODUCT = 2
"""A multiplication and an addition."""


def product_graph(precision: str) -> onnx.ModelProto:
    """``x`` float [rows, 512] · a constant [512, 2048] → ``y``, the constant in the given precision."""
    random, shape = np.random.default_rng(0), (INNER, COLUMNS)
    constants: dict[str, npt.NDArray[Any]] = {"weight": random.standard_normal(shape, dtype=np.float32)}
    if precision == "int8":
        constants = {
            "weight": random.integers(-INT8_LIMIT, INT8_LIMIT, size=shape, dtype=np.int8),
            "scale": np.full(COLUMNS, 1 / INT8_LIMIT, np.float32),
        }
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> '
        f"product (float[rows, {INNER}] x) => (float[rows, {COLUMNS}] y) {{ y = {NODES[precision]} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return model


def measure(threads: int, spin: bool, seconds: float = SECONDS_PER_SHAPE) -> list[GemmRecord]:
    """A record for each precision and number of rows, in this process."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    records = []
    for precision, operator in OPERATORS.items():
        graph = product_graph(precision).SerializeToString()
        session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        for rows in ROWS:
            taken = _times(session, rows, seconds)
            rate = OPS_PER_PRODUCT * rows * INNER * COLUMNS / float(np.median(taken)) / GIGA
            records.append(GemmRecord(precision, operator, rows, INNER, COLUMNS, rate, len(taken), threads))
    return records


def _times(session: ort.InferenceSession, rows: int, seconds: float) -> list[float]:
    """Seconds of each call, as many calls as the time allows."""
    binding = session.io_binding()  # so that no copy of the result is timed
    binding.bind_cpu_input("x", np.random.default_rng(1).standard_normal((rows, INNER), dtype=np.float32))
    binding.bind_output("y")
    for _ in range(WARM_UP_CALLS):
        session.run_with_iobinding(binding)
    taken: list[float] = []
    while len(taken) < LEAST_CALLS or (sum(taken) < seconds and len(taken) < MOST_CALLS):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        taken.append(time.perf_counter() - start)
    return taken


def measure_apart(threads: int, spin: bool) -> tuple[GemmRecord, ...]:
    """:func:`measure` in a process of its own; an EngineError where that fails."""
    names = {"name": "the measurement of the machine's own rate", "advice": "add --no-roofline"}
    options = {**names, "environment": thread_environment(threads, spin), "timeout": TIMEOUT_S}
    records: tuple[GemmRecord, ...] = run_in_child(MEASURE, threads, spin, returns=tuple[GemmRecord, ...], **options)
    return records
