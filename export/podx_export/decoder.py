"""The decoder graph: one step for all live beams of all users.

    tokens ── embedding ── N layers ── norm ── output layer ── log-softmax
    layer: norm ── self-attention over the cache's slots ── norm ── cross-attention ── norm ── feed-forward

The beams of a user are laid along the query axis, so cross-attention reads the user's K and V once, whatever the
number of beams, and self-attention reads all slots of the user and masks those that are not on the beam's path.
"""

from __future__ import annotations

import numpy as np

from podx import signature as sig
from podx_export.graph import INT8, MICROSOFT, GraphBuilder
from podx_export.layers import (
    add_and_norm,
    additive_mask,
    attention,
    embed,
    feed_forward,
    linear,
    quantized_output,
    rms_norm,
    with_masked_row,
)
from podx_export.rows import BeamGrid, Rows
from podx_export.source import DecoderLayer, SourceModel
from podx_export.weights import WeightStore


def build_decoder(model: SourceModel, weights: WeightStore, items_only: bool, precision: str) -> GraphBuilder:
    """Graph of one decoding step.

    Args:
        items_only: score just the tokens given as ``output_tokens`` (those of the catalogue and end of sequence).
    """
    graph = GraphBuilder("decoder_items" if items_only else "decoder", weights, precision)
    step = [graph.input(spec) for spec in sig.step_inputs(items_only)]
    memory = [graph.input(spec) for spec in sig.memory_tensors(model.shape)]
    past = [graph.input(spec) for spec in sig.past_tensors(model.shape)]
    hidden = embed(graph, "embedding", model.embedding, step[0])
    biases = _path_bias(graph, model, step[1]), memory_bias(graph, memory[0], graph.dimension(step[0], 1))
    final, present = decode_step(graph, model, hidden, BeamGrid(), memory[1:], past, *biases)
    log_probs = _output_layer(graph, model, final, step[2] if items_only else None)
    graph.output(sig.log_probs_tensor(model.shape, items_only), log_probs)
    for spec, value in zip(sig.present_tensors(model.shape), present, strict=True):
        graph.output(spec, value)
    return graph


def decode_step(
    graph: GraphBuilder,
    model: SourceModel,
    hidden: str,
    rows: Rows,
    memory: list[str],
    past: list[str],
    self_bias: str,
    cross_bias: str,
) -> tuple[str, list[str]]:
    """All layers and the last norm, scaled for the output layer.

    Args:
        hidden: embedded tokens, laid out as ``rows`` says.
        memory: cross-attention K and V of every layer.
        past: the cache, [batch, heads, past, head_dim]; empty in the first step of a graph that holds all steps.
        self_bias, cross_bias: added to the attention scores.

    Returns:
        the decoder state laid out as ``hidden``, and the caches with this step's slots appended.
    """
    present: list[str] = []
    normed = rms_norm(graph, hidden, "decoder.0.norm", model.decoder[0].attention.norm, model.epsilon)
    following = [(f"decoder.{n}.norm", layer.attention.norm) for n, layer in enumerate(model.decoder)][1:]
    following.append(("decoder.norm", model.decoder_norm * np.float32(model.output_scale)))
    for number, (layer, after) in enumerate(zip(model.decoder, following, strict=True)):
        prefix, own = f"decoder.{number}", slice(2 * number, 2 * number + 2)
        with graph.scope(f"layers.{number}"):
            mixed, caches = _self_attention(graph, model, prefix, layer, normed, rows, past[own], self_bias)
            present += caches
            normed, hidden = add_and_norm(graph, hidden, mixed, f"{prefix}.cross_norm", layer.cross.norm, model.epsilon)
            mixed = _cross_attention(graph, model, prefix, layer, normed, rows, memory[own], cross_bias)
            block = layer.feed_forward
            normed, hidden = add_and_norm(graph, hidden, mixed, f"{prefix}.ff_norm", block.norm, model.epsilon)
            dense = feed_forward(graph, normed, f"{prefix}.ff", block, model.activation, model.gated)
            normed, hidden = add_and_norm(graph, hidden, dense, *after, model.epsilon)
    return normed, present


def _path_bias(graph: GraphBuilder, model: SourceModel, distance: str) -> str:
    """Position bias of the slots on a beam's path, MASKED elsewhere.

    [batch, beams, slots] → [batch, heads, beams, slots].
    """
    with graph.scope("path_bias"):
        near = graph.make("Min", distance, graph.int_scalar(model.max_distance))
        table = graph.weight("decoder_bias", with_masked_row(model.decoder_bias))  # index -1 reads the masked row
        return graph.transpose(graph.make("Gather", table, near), 0, 3, 1, 2)


def memory_bias(graph: GraphBuilder, memory_mask: str, beams: str) -> str:
    """Padding mask for every beam: [batch, memory], number of beams int64 [1] → [batch, 1, beams, memory]."""
    with graph.scope("memory_bias"):
        shape = graph.make("Concat", graph.ints(1, 1), beams, graph.ints(1), axis=0)
        return graph.make("Expand", additive_mask(graph, memory_mask), shape)


def _self_attention(
    graph: GraphBuilder,
    model: SourceModel,
    prefix: str,
    layer: DecoderLayer,
    normed: str,
    rows: Rows,
    past: list[str],
    bias: str,
) -> tuple[str, list[str]]:
    """→ rows of d, and this layer's cache with the step's slots appended."""
    heads, head_dim, own = model.shape.heads, model.shape.head_dim, layer.attention
    with graph.scope("self_attention"):
        key = rows.spread(graph, linear(graph, normed, f"{prefix}.key", own.key))
        value = rows.spread(graph, linear(graph, normed, f"{prefix}.value", own.value))
        if not past:  # one slot, so its value is what attention gives
            present = [graph.reshape(part, 0, heads, 1, head_dim) for part in (key, value)]
            return linear(graph, rows.pack(graph, value), f"{prefix}.out", own.out), present
        query = rows.spread(graph, linear(graph, normed, f"{prefix}.query", own.query))
        inputs = [query, key, value, "", "", bias, *past]
        mixed, *present = graph.op(
            "MultiHeadAttention", inputs, outputs=3, domain=MICROSOFT, num_heads=heads, scale=1.0
        )
        return linear(graph, rows.pack(graph, mixed), f"{prefix}.out", own.out), present


def _cross_attention(
    graph: GraphBuilder,
    model: SourceModel,
    prefix: str,
    layer: DecoderLayer,
    normed: str,
    rows: Rows,
    memory: list[str],
    bias: str,
) -> str:
    with graph.scope("cross_attention"):
        query = rows.spread(graph, linear(graph, normed, f"{prefix}.cross_query", layer.cross.query))
        mixed = attention(graph, query, memory[0], memory[1], model.shape.heads, bias)
        return linear(graph, rows.pack(graph, mixed), f"{prefix}.cross_out", layer.cross.out)


def _output_layer(graph: GraphBuilder, model: SourceModel, final: str, output_tokens: str | None) -> str:
    """[batch, beams, d] → [batch, beams, tokens]. The weight lies as the embedding does: a tied one is stored once."""
    with graph.scope("output"):
        name = "embedding" if model.output is model.embedding else "output"
        rows = graph.reshape(final, -1, model.width)
        if output_tokens is not None:
            logits = graph.make("Gemm", rows, embed(graph, name, model.output, output_tokens), transB=1)
        elif graph.precision == INT8:
            logits = quantized_output(graph, rows, name, model.output)
        else:
            logits = graph.make("Gemm", rows, graph.weight(name, model.output), transB=1)
        log_probs = graph.make("LogSoftmax", logits, axis=-1)
        shape = graph.make("Concat", graph.make("Shape", final, end=2), graph.dimension(log_probs, 1), axis=0)
        return graph.make("Reshape", log_probs, shape)
