"""Products of 8-bit integers, of rows that are rounded as they come.

Each row is rounded by its own range, so its result depends on no other row. ONNX Runtime's product takes a column of
scales, by which it multiplies the rows of its result:

    x [rows, in] ──┬── largest magnitude ── scale [rows, 1] ───────┬────────────────────┐
                   └───────────────────────────────────── QuantizeLinear ── MatMulIntegerToFloat, weights ── [rows, out]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from podx_export.blocks.graph import FLOAT, GraphBuilder
from podx_export.blocks.quantize import quantize_columns, quantize_rows
from podx_export.blocks.source import Float32Array

ZERO = 128
"""The integer that stands for zero where activations have both signs: they are within ±127 of it."""

ANY_SCALE = 1e38
"""Divided by it, every scale rounds to zero."""


@dataclass(frozen=True)
class RoundedRows:
    """``values``: uint8 [rows, in]; ``scale``: float32 [rows, 1], a step of each row; ``zero``: see ZERO.

    Rows lie as attention has them in graphs that have them so: [..., in].
    """

    values: str
    scale: str
    zero: str


def _signed_rows(graph: GraphBuilder, x: str, width: int) -> RoundedRows:
    """Rows in 8 bits, made once for all products that read them. ``width``: of a row.

    A row of zeros has scale 0: it is divided by that, and whatever comes of it is multiplied by 0 in the end.
    """
    zero = graph.weight("zero.signed", np.array(ZERO, dtype=np.uint8))
    if x not in graph.rounded:
        scale = _scale(graph, graph.make("Abs", x), 255 - ZERO)
        if not graph.zeros:  # one for each row
            graph.zeros = graph.make("QuantizeLinear", scale, graph.float_scalar(ANY_SCALE), zero)
        graph.rounded[x] = _round(graph, x, width, scale, graph.zeros), scale
    return RoundedRows(*graph.rounded[x], zero)


def _relu_rows(graph: GraphBuilder, x: str, width: int) -> RoundedRows:
    """The same after a Relu, which needs no operator: rounding to unsigned integers makes zeros of negative values."""
    scale = graph.make("Relu", _scale(graph, x, 255))
    zero = graph.weight("zero.relu", np.array(0, dtype=np.uint8))
    return RoundedRows(_round(graph, x, width, scale), scale, zero)


def _scale(graph: GraphBuilder, x: str, steps: int) -> str:
    """A step of each row's largest value, [..., 1]."""
    largest = graph.reduce("ReduceMax", x, axis=graph.row_axis, keepdims=1)  # -1 leaves no rows as they are
    return graph.make("Mul", largest, graph.float_scalar(1 / steps))


def _round(graph: GraphBuilder, x: str, width: int, scale: str, *zeros: str) -> str:
    """Each row by its own scale, and zero if one is given."""
    return graph.make("QuantizeLinear", x, scale, *zeros, axis=-1, block_size=width)


def integer_linear(graph: GraphBuilder, x: str, name: str, weight: Float32Array) -> str:
    """``x @ weight``: [rows, in] → [rows, out]."""
    return _by_weight(graph, _signed_rows(graph, x, len(weight)), name, weight)


def folded_linear(graph: GraphBuilder, x: str, name: str, weight: Float32Array) -> str:
    """``x @ weight`` of a constant ``x``: in float32, so that ONNX Runtime computes it once, at load."""
    quantized = quantize_columns(weight)
    values, scale = graph.weight(f"{name}.int8", quantized.values), graph.weight(f"{name}.scale", quantized.scale)
    return graph.make("MatMul", x, graph.make("Mul", graph.cast(values, FLOAT), scale))


def integer_relu_feed_forward(
    graph: GraphBuilder, x: str, prefix: str, inner: Float32Array, outer: Float32Array
) -> str:
    """``relu(x @ inner) @ outer``: [rows, d] → the same.

    The scales of ``x`` go round the Relu, for relu(s · y) = s · relu(y), and are multiplied in at the end.
    """
    rows = _signed_rows(graph, x, len(inner))
    unscaled = _by_weight(graph, replace(rows, scale=graph.float_scalar(1.0)), f"{prefix}.inner", inner)
    hidden = _relu_rows(graph, unscaled, len(outer))
    scale = graph.make("Mul", rows.scale, hidden.scale)
    return _by_weight(graph, replace(hidden, scale=scale), f"{prefix}.outer", outer)


def _by_weight(graph: GraphBuilder, rows: RoundedRows, name: str, weight: Float32Array) -> str:
    """``rows @ weight``, float32 [rows, out]."""
    quantized = quantize_columns(weight)
    values, scale = graph.weight(f"{name}.int8", quantized.values), graph.weight(f"{name}.scale", quantized.scale)
    return _product(graph, rows, values, scale)


def integer_output(graph: GraphBuilder, x: str, name: str, table: Float32Array, only: str | None = None) -> str:
    """``x @ table.T`` for a table that :func:`half_table` keeps: [rows, d] → [rows, entries].

    The constant is rounded to int8 and turned once, at load. ``only``: int64 [entries], constant rows of the table.
    """
    scale = graph.weight(f"{name}.scale", quantize_rows(table).scale)
    zeros = graph.weight(f"{name}.zero", np.zeros(len(table), dtype=np.int8))
    half = half_table(graph, name, table)
    if only is not None:
        half, scale, zeros = (graph.make("Gather", part, only) for part in (half, scale, zeros))
    values = graph.make("QuantizeLinear", graph.cast(half, FLOAT), scale, zeros, axis=0)
    return _product(graph, _signed_rows(graph, x, table.shape[1]), graph.transpose(values, 1, 0), scale)


def half_table(graph: GraphBuilder, name: str, table: Float32Array) -> str:
    """A table of which rows are looked up, in float16: 8 bits would cost more of the accuracy than all products do."""
    return graph.weight(f"{name}.fp16", table.astype(np.float16))


def _product(graph: GraphBuilder, rows: RoundedRows, values: str, scale: str) -> str:
    return graph.fused("MatMulIntegerToFloat", rows.values, values, rows.scale, scale, rows.zero)
