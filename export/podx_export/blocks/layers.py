"""Blocks of T5 that the encoder and the decoder graph share.

x ──┬── RMSNorm ── attention ──(+)──┬── RMSNorm ── feed-forward ──(+)── …
    └──────────────────────────────┘└──────────────────────────────┘
"""

from __future__ import annotations

import numpy as np

from podx.errors import ExportError
from podx_export.blocks.graph import FLOAT, FP16, INT8, MICROSOFT, GraphBuilder
from podx_export.blocks.integer import folded_linear, half_table, integer_linear, integer_relu_feed_forward
from podx_export.blocks.source import FeedForward, Float32Array

MASKED = -1e9
"""Added to the attention score of a position that must not be seen. Far below any real score, far from float limits."""

MASKED_FP16 = -3e4
"""The same where float16 would make infinity of it."""

FP16_HEADROOM = 64.0
"""The outer feed-forward layer of T5 leaves the range of float16 (65,504). Its weights are divided by this power of
two, which costs no digit, and its result is multiplied by it in float32."""

SUPPORTED_ACTIVATIONS = ("relu", "gelu_new")


def rms_norm(graph: GraphBuilder, x: str, name: str, weight: Float32Array, epsilon: float) -> str:
    """T5's layer norm: scale only, no mean, no bias. Written in standard operators, which ONNX Runtime fuses."""
    square = graph.make("Mul", x, x)
    mean = graph.reduce("ReduceMean", square, axis=-1, keepdims=1)
    root = graph.make("Sqrt", graph.make("Add", mean, graph.float_scalar(epsilon)))
    return graph.make("Mul", graph.make("Div", x, root), graph.weight(name, weight))


def add_and_norm(
    graph: GraphBuilder, x: str, delta: str, name: str, weight: Float32Array, epsilon: float
) -> tuple[str, str]:
    """Residual connection and the next norm, in float32, in one pass over memory: → norm(x + delta), x + delta."""
    normed, _, _, total = graph.op(
        "SkipSimplifiedLayerNormalization",
        [x, graph.to_float32(delta), graph.weight(name, weight)],
        outputs=4,
        domain=MICROSOFT,
        epsilon=epsilon,
    )
    return normed, total


def linear(graph: GraphBuilder, x: str, name: str, weight: Float32Array, constant: bool = False) -> str:
    """``x @ weight``: [rows, in] → [rows, out], in the graph's precision. ``constant``: ``x`` depends on no input."""
    if graph.precision == INT8:
        return (folded_linear if constant else integer_linear)(graph, x, name, weight)
    return graph.make("MatMul", graph.to_half(x), graph.float_weight(name, weight))


def embed(graph: GraphBuilder, name: str, table: Float32Array, indices: str) -> str:
    """Rows of a table: indices [...] → [..., d] in float32."""
    if graph.precision == INT8:
        return graph.cast(graph.make("Gather", half_table(graph, name, table), indices), FLOAT)
    return graph.to_float32(graph.make("Gather", graph.float_weight(name, table), indices))


def feed_forward(graph: GraphBuilder, x: str, prefix: str, block: FeedForward, activation: str, gated: bool) -> str:
    """Two linear layers with an activation, and a gate in T5 v1.1. [rows, d] → [rows, d]."""
    with graph.scope("feed_forward"):
        if graph.precision == INT8 and activation == "relu" and not gated:
            return integer_relu_feed_forward(graph, x, prefix, block.inner, block.outer)
        inner = linear(graph, x, f"{prefix}.inner", block.inner)
        if gated:
            half = block.inner.shape[1] // 2
            gate, inner = graph.split(inner, [half, half], axis=-1)
            inner = graph.make("Mul", activate(graph, gate, activation), inner)
        else:
            inner = activate(graph, inner, activation)
        if graph.precision != FP16:
            return linear(graph, inner, f"{prefix}.outer", block.outer)
        scaled = linear(graph, inner, f"{prefix}.outer", block.outer / np.float32(FP16_HEADROOM))
        return graph.make("Mul", graph.to_float32(scaled), graph.float_scalar(FP16_HEADROOM))


def activate(graph: GraphBuilder, x: str, name: str) -> str:
    """Elementwise activation.

    Raises:
        ExportError: the activation has no counterpart among the graph operators used here.
    """
    if name == "relu":
        return graph.make("Relu", x)
    if name == "gelu_new":
        return graph.fused("FastGelu", x)
    raise ExportError(f"activation {name!r} cannot be exported: supported are {', '.join(SUPPORTED_ACTIVATIONS)}")


def attention(graph: GraphBuilder, query: str, key: str, value: str, heads: int, bias: str) -> str:
    """Attention without 1/√d scaling, as in T5.

    ``query`` [batch, n, heads·head_dim]; ``key``, ``value`` the same with m rows, or [batch, heads, m, head_dim];
    ``bias`` added to the scores, [batch or 1, heads or 1, n, m]. → [batch, n, heads·head_dim].
    """
    query, key, value, bias = (graph.to_half(part) for part in (query, key, value, bias))
    return graph.fused("MultiHeadAttention", query, key, value, "", "", bias, num_heads=heads, scale=1.0)


def split_heads(graph: GraphBuilder, x: str, heads: int, head_dim: int) -> str:
    """[batch, n, heads·head_dim] → [batch, heads, n, head_dim]."""
    return graph.transpose(graph.reshape(x, 0, 0, heads, head_dim), 0, 2, 1, 3)


def masked_score(graph: GraphBuilder) -> float:
    """What stands for the attention score of a position that must not be seen."""
    return MASKED_FP16 if graph.precision == FP16 else MASKED


def additive_mask(graph: GraphBuilder, mask: str) -> str:
    """1 = visible, 0 = hidden → 0 and :data:`MASKED`. int64 [batch, m] → float32 [batch, 1, 1, m]."""
    hidden = graph.make("Sub", graph.int_scalar(1), mask)
    scaled = graph.make("Mul", graph.cast(hidden, FLOAT), graph.float_scalar(masked_score(graph)))
    return graph.make("Unsqueeze", scaled, graph.ints(1, 2))


def with_masked_row(table: Float32Array) -> Float32Array:
    """Append a row of :data:`MASKED`, which index -1 then reads."""
    return np.concatenate([table, np.full((1, table.shape[1]), MASKED, dtype=np.float32)])
