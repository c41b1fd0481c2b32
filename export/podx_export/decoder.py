"""The decoder graph: one step for all live beams of all users.

    tokens ── embedding ── N × ( norm ── self-attention over the cache's slots ── norm ── cross-attention ── norm ── feed-forward ) ──
    norm ── output layer ── log-softmax

The beams of a user are laid along the query axis, so cross-attention reads the user's K and V once, whatever the number of beams,
and self-attention reads all slots of the user and masks those that are not on the beam's path.
"""

from __future__ import annotations

from podx import signature as sig
from podx_export.graph import GraphBuilder
from podx_export.layers import (
    additive_mask,
    attention,
    feed_forward,
    linear,
    rms_norm,
    with_masked_row,
)
from podx_export.source import DecoderLayer, SourceModel
from podx_export.weights import WeightStore


def build_decoder(model: SourceModel, weights: WeightStore, items_only: bool) -> GraphBuilder:
    """Graph of one decoding step.

    Args:
        items_only: score just the tokens given as ``output_tokens`` (those of the catalogue and end of sequence).
    """
    graph = GraphBuilder("decoder_items" if items_only else "decoder", weights)
    step = [graph.input(spec) for spec in sig.step_inputs(items_only)]
    memory = [graph.input(spec) for spec in sig.memory_tensors(model.shape)]
    past = [graph.input(spec) for spec in sig.past_tensors(model.shape)]
    hidden = graph.make("Gather", graph.weight("embedding", model.embedding), step[0])
    self_bias = _path_bias(graph, model, step[1])
    cross_bias = _memory_bias(graph, memory[0], step[0])
    present: list[str] = []
    for number, layer in enumerate(model.decoder):
        with graph.scope(f"layers.{number}"):
            caches = past[2 * number : 2 * number + 2]
            hidden, new = _self_attention(graph, model, number, layer, hidden, caches, self_bias)
            present += new
            hidden = _cross_attention(
                graph, model, number, layer, hidden, memory[1 + 2 * number : 3 + 2 * number], cross_bias
            )
            block = layer.feed_forward
            normed = rms_norm(graph, hidden, f"decoder.{number}.ff_norm", block.norm, model.epsilon)
            dense = feed_forward(graph, normed, f"decoder.{number}.ff", block, model.activation, model.gated)
            hidden = graph.make("Add", hidden, dense)
    final = rms_norm(graph, hidden, "decoder.norm", model.decoder_norm * model.output_scale, model.epsilon)
    log_probs = _output_layer(graph, model, final, step[2] if items_only else None)
    graph.output(sig.log_probs_tensor(model.shape, items_only), log_probs)
    for spec, value in zip(sig.present_tensors(model.shape), present, strict=True):
        graph.output(spec, value)
    return graph


def _path_bias(graph: GraphBuilder, model: SourceModel, distance: str) -> str:
    """Position bias of each slot on a beam's path, MASKED elsewhere: [batch, beams, slots] → [batch, heads, beams, slots]."""
    with graph.scope("path_bias"):
        near = graph.make("Min", distance, graph.int_scalar(model.max_distance))
        table = graph.weight("decoder_bias", with_masked_row(model.decoder_bias))  # index -1 reads the masked row
        return graph.transpose(graph.make("Gather", table, near), 0, 3, 1, 2)


def _memory_bias(graph: GraphBuilder, memory_mask: str, tokens: str) -> str:
    """Padding mask for every beam: [batch, memory] → [batch, 1, beams, memory]."""
    with graph.scope("memory_bias"):
        beams = graph.dimension(tokens, 1)
        shape = graph.make("Concat", graph.ints(1, 1), beams, graph.ints(1), axis=0)
        return graph.make("Expand", additive_mask(graph, memory_mask), shape)


def _self_attention(
    graph: GraphBuilder,
    model: SourceModel,
    number: int,
    layer: DecoderLayer,
    hidden: str,
    past: list[str],
    bias: str,
) -> tuple[str, list[str]]:
    """→ hidden [batch, beams, d] and this layer's cache with the step's slots appended."""
    prefix, heads = f"decoder.{number}", model.shape.heads
    width = heads * model.shape.head_dim
    with graph.scope("self_attention"):
        normed = rms_norm(graph, hidden, f"{prefix}.norm", layer.norm, model.epsilon)
        qkv = linear(graph, normed, f"{prefix}.qkv", layer.qkv)
        query, key, value = graph.split(qkv, [width] * 3, axis=-1)
        mixed, *present = graph.op(
            "MultiHeadAttention",
            [query, key, value, "", "", bias, *past],
            outputs=3,
            domain="com.microsoft",
            num_heads=heads,
            scale=1.0,
        )
        return graph.make("Add", hidden, linear(graph, mixed, f"{prefix}.out", layer.out)), present


def _cross_attention(
    graph: GraphBuilder,
    model: SourceModel,
    number: int,
    layer: DecoderLayer,
    hidden: str,
    memory: list[str],
    bias: str,
) -> str:
    prefix = f"decoder.{number}"
    with graph.scope("cross_attention"):
        normed = rms_norm(graph, hidden, f"{prefix}.cross_norm", layer.cross_norm, model.epsilon)
        query = linear(graph, normed, f"{prefix}.cross_query", layer.cross_query)
        mixed = attention(graph, query, memory[0], memory[1], model.shape.heads, bias)
        return graph.make("Add", hidden, linear(graph, mixed, f"{prefix}.cross_out", layer.cross_out))


def _output_layer(graph: GraphBuilder, model: SourceModel, final: str, output_tokens: str | None) -> str:
    """[batch, beams, d] → [batch, beams, tokens]. The weight keeps the embedding's layout, so a tied one is stored once."""
    with graph.scope("output"):
        name = "embedding" if model.output is model.embedding else "output"
        table = graph.weight(name, model.output)
        if output_tokens is not None:
            table = graph.make("Gather", table, output_tokens)
        rows = graph.reshape(final, -1, model.width)
        log_probs = graph.make("LogSoftmax", graph.make("Gemm", rows, table, transB=1), axis=-1)
        shape = graph.make("Concat", graph.make("Shape", final, end=2), graph.dimension(table, 0), axis=0)
        return graph.make("Reshape", log_probs, shape)
