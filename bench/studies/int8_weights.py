"""How weights may be written as 8-bit integers: whether each way is exact on this processor, and how fast.

``python bench/studies/int8_weights.py`` multiplies uint8 activations by weights of t5-small's first feed-forward layer
with ONNX Runtime's MatMulIntegerToFloat, the operator of int8 bundles, on one thread. All ways take turns, and the
fastest of many calls counts. The result for one machine is in docs/decisions.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from podx.graphs.instruction_set import instruction_set

INNER, COLUMNS = 512, 2048
ROWS = (1, 20, 640, 1408)
"""One token, the beams of one user, those of 32 users, and 32 inputs of 44 tokens."""
TURNS = {1: 400, 20: 200, 640: 30, 1408: 20}
LARGEST_ACTIVATION = 255


@dataclass(frozen=True)
class Weights:
    """One way: ``values`` [512, 2048], of which ``zero_point`` stands for zero."""

    name: str
    values: npt.NDArray[Any]
    zero_point: int = 0


def ways() -> list[Weights]:
    """Signed within ±127 and ±64, and unsigned around 128."""
    random, shape = np.random.default_rng(0), (INNER, COLUMNS)
    signed = [
        Weights(f"int8 within ±{largest}", random.integers(-largest, largest + 1, shape).astype(np.int8))
        for largest in (127, 64)
    ]
    return [*signed, Weights("uint8 around 128", random.integers(1, 256, shape).astype(np.uint8), 128)]


def session(weights: Weights) -> ort.InferenceSession:
    """A graph of the one operator, all scales 1."""
    zero = np.array(weights.zero_point, dtype=weights.values.dtype)
    constants = {"weights": weights.values, "scale": np.ones(COLUMNS, np.float32), "zero": zero}
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    none = numpy_helper.from_array(np.array(0, np.uint8), "none")
    inputs = ["rows", "weights", "one", "scale", "none", "zero"]
    graph = helper.make_graph(
        [helper.make_node("MatMulIntegerToFloat", inputs, ["product"], domain="com.microsoft")],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, ["n", INNER])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", COLUMNS])],
        [one, none, *(numpy_helper.from_array(array, name) for name, array in constants.items())],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def is_exact(weights: Weights, run: ort.InferenceSession) -> bool:
    """Whether products of random rows and of a row of 255 equal integer arithmetic."""
    rows = np.random.default_rng(1).integers(0, LARGEST_ACTIVATION + 1, (33, INNER)).astype(np.uint8)
    rows[0] = LARGEST_ACTIVATION
    (product,) = run.run(None, {"rows": rows})
    return np.array_equal(product, rows.astype(np.int64) @ (weights.values.astype(np.int64) - weights.zero_point))


def main() -> None:
    """Print a row for each way."""
    runs = {weights.name: session(weights) for weights in ways()}
    table = Table("weights", f"exact ({instruction_set()})", *(f"{rows} rows" for rows in ROWS))
    fastest = {(name, rows): np.inf for name in runs for rows in ROWS}
    for rows in ROWS:
        feed = {"rows": np.random.default_rng(2).integers(0, 256, (rows, INNER)).astype(np.uint8)}
        for _ in range(TURNS[rows]):
            for name, run in runs.items():
                start = time.perf_counter()
                run.run(None, feed)
                fastest[name, rows] = min(fastest[name, rows], time.perf_counter() - start)
    for weights in ways():
        rates = (2 * rows * INNER * COLUMNS / fastest[weights.name, rows] / 1e9 for rows in ROWS)
        exact = "yes" if is_exact(weights, runs[weights.name]) else "no"
        table.add_row(weights.name, exact, *(f"{rate:.0f} · 10⁹/s" for rate in rates))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
