"""The decoder graph: one step for all live beams of all users.

    tokens ── embedding ── N layers ── norm ── output layer ── log-softmax
    layer: norm ── self-attention over the cache's slots ── norm ── cross-attention ── norm ── feed-forward

The beams of a user are laid along the query axis, so cross-attention reads the user's K and V once, whatever the
number of beams, and self-attention reads all slots of the user and masks those that are not on the beam's path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx_export.blocks.graph import INT8, GraphBuilder
from podx_export.blocks.integer import integer_output
from podx_export.blocks.layers import add_and_norm, additive_mask, attention, embed, feed_forward, linear, rms_norm
from podx_export.blocks.rows import Grid, InPlace, Rows
from podx_export.blocks.self_attention import OwnRows, SelfAttention, SlotAttention
from podx_export.blocks.source import Attention, DecoderLayer, Float32Array, SourceModel
from podx_export.blocks.weights import WeightStore


@dataclass(frozen=True)
class TokenRows:
    """Tokens as they enter the first layer, before they see anything else. Each [rows, …], or [batch, beams, …].

    Attributes:
        hidden: embedded tokens. query, key, value: of the first self-attention; no query where nothing came before.
            Of a token that nothing follows either: only the value, multiplied by the output weights.
    """

    hidden: str
    query: str
    key: str
    value: str

    @classmethod
    def of(
        cls,
        graph: GraphBuilder,
        model: SourceModel,
        hidden: str,
        query: bool = True,
        constant: bool = False,
        alone: bool = False,
    ) -> TokenRows:
        """``hidden``: [rows, d]; ``constant``: it depends on no input, so that all is computed at load.

        ``alone``: nothing comes before or after.
        """
        weights = model.decoder[0].attention
        with graph.scope("layers.0"), graph.scope("self_attention"):
            normed = rms_norm(graph, hidden, "decoder.0.norm", weights.norm, model.epsilon)
            if alone:
                return cls(hidden, "", "", _of_itself(graph, normed, "decoder.0", weights))
            parts = [("key", weights.key), ("value", weights.value), *([("query", weights.query)] if query else [])]
            made = {part: linear(graph, normed, f"decoder.0.{part}", weight, constant) for part, weight in parts}
            return cls(hidden, made.get("query", ""), made["key"], made["value"])

    def pick(self, graph: GraphBuilder, row: str) -> TokenRows:
        """Some of the rows, as often as they are named: int64 [n]."""
        return TokenRows(*(graph.make("Gather", part, row) for part in (self.hidden, self.query, self.key, self.value)))


def build_decoder(model: SourceModel, weights: WeightStore, items_only: bool, precision: str) -> GraphBuilder:
    """Graph of one decoding step.

    Args:
        items_only: score just the tokens given as ``output_tokens`` (those of the catalog and end of sequence).
    """
    graph = GraphBuilder("decoder_items" if items_only else "decoder", weights, precision)
    step = [graph.input(spec) for spec in sig.step_inputs(items_only)]
    memory = [graph.input(spec) for spec in sig.memory_tensors(model.shape)]
    past = [graph.input(spec) for spec in sig.past_tensors(model.shape)]
    hidden = embed(graph, "embedding", model.embedding, step[0])
    grid = Grid.of(graph, hidden)
    tokens = TokenRows.of(graph, model, grid.pack(graph, hidden))
    attention = SlotAttention(graph, model, step[1], past, grid)
    mask = memory_bias(graph, memory[0], graph.dimension(step[0], 1))
    final = decode_step(graph, model, tokens, grid, attention, memory[1:], mask)
    output = _output_name(model)
    if items_only:
        logits = graph.make("Gemm", final, embed(graph, output, model.output, step[2]), transB=1)
    else:
        logits = vocabulary_logits(graph, model, final)
    log_probs = grid.spread(graph, graph.make("LogSoftmax", logits, axis=-1))
    graph.output(sig.log_probs_tensor(model.shape, items_only), log_probs)
    for spec, value in zip(sig.present_tensors(model.shape), attention.present, strict=True):
        graph.output(spec, value)
    return graph


def build_text_decoder(
    model: SourceModel, weights: WeightStore, precision: str, only: npt.NDArray[np.int64] | None = None
) -> GraphBuilder:
    """Graph of one decoding step of a text, which gives the best tokens of each beam.

    Args:
        only: tokens that are scored, ascending, int64 [tokens]; None: all.
    """
    name = "decoder_text" if only is None else "decoder_explanations"
    graph = GraphBuilder(name, weights, precision, row_axis=2)
    tokens, distance, copied, written, wanted = (graph.input(spec) for spec in sig.text_step_inputs())
    memory = [graph.input(spec) for spec in sig.memory_tensors(model.shape)]
    cache = [graph.input(spec) for spec in sig.text_cache(model.shape)]
    rows = TokenRows.of(graph, model, embed(graph, "embedding", model.embedding, tokens))
    attention = OwnRows(graph, model, tokens, distance, (copied, written), cache)
    mask = memory_bias(graph, memory[0], graph.dimension(tokens, 1))
    final = decode_step(graph, model, rows, InPlace(), attention, memory[1:], mask)
    if only is None:
        logits = vocabulary_logits(graph, model, final)
    else:
        logits = _logits(graph, final, "explanation_output", model.output[only])
    log_probs = graph.make("LogSoftmax", logits, axis=-1)
    count = graph.make("Min", wanted, graph.ints(len(model.output) if only is None else len(only)))
    best, token = graph.op("TopK", [log_probs, count], outputs=2)
    if only is not None:
        token = graph.make("Gather", graph.weight("explanation_tokens", only), token)
    for spec, value in zip(sig.text_step_outputs(), (best, token), strict=True):
        graph.output(spec, value)
    for spec, value in zip(sig.text_cache(model.shape, after=True), attention.present, strict=True):
        graph.output_itself(spec, value)
    return graph


def decode_step(
    graph: GraphBuilder,
    model: SourceModel,
    tokens: TokenRows,
    rows: Rows,
    attention: SelfAttention,
    memory: list[str],
    memory_mask: str,
) -> str:
    """All layers and the last norm, scaled for the output layer.

    Args:
        tokens: laid out as ``rows`` says.
        attention: what a token sees of the earlier ones.
        memory: cross-attention K and V of every layer. memory_mask: see :func:`memory_bias`.

    Returns:
        the decoder states laid out as ``tokens``.
    """
    hidden, normed = tokens.hidden, ""
    following = [(f"decoder.{n}.norm", layer.attention.norm) for n, layer in enumerate(model.decoder)][1:]
    following.append(("decoder.norm", model.decoder_norm * np.float32(model.output_scale)))
    for number, (layer, after) in enumerate(zip(model.decoder, following, strict=True)):
        prefix, keys_values = f"decoder.{number}", memory[2 * number : 2 * number + 2]
        with graph.scope(f"layers.{number}"):
            mixed = _self_attention(graph, prefix, layer, normed if number else tokens, attention, number)
            normed, hidden = add_and_norm(graph, hidden, mixed, f"{prefix}.cross_norm", layer.cross.norm, model.epsilon)
            mixed = _cross_attention(graph, model, prefix, layer, normed, rows, keys_values, memory_mask)
            block = layer.feed_forward
            normed, hidden = add_and_norm(graph, hidden, mixed, f"{prefix}.ff_norm", block.norm, model.epsilon)
            dense = feed_forward(graph, normed, f"{prefix}.ff", block, model.activation, model.gated)
            normed, hidden = add_and_norm(graph, hidden, dense, *after, model.epsilon)
    return normed


def memory_bias(graph: GraphBuilder, memory_mask: str, beams: str) -> str:
    """Padding mask for every beam: [batch, memory], number of beams int64 [1] → [batch, 1, beams, memory]."""
    with graph.scope("memory_bias"):
        shape = graph.make("Concat", graph.ints(1, 1), beams, graph.ints(1), axis=0)
        return graph.make("Expand", additive_mask(graph, memory_mask), shape)


def _self_attention(
    graph: GraphBuilder, prefix: str, layer: DecoderLayer, x: str | TokenRows, attention: SelfAttention, number: int
) -> str:
    """``x``: normed rows, or those that enter the first layer."""
    weights = layer.attention
    with graph.scope("self_attention"):
        if attention.alone:
            return x.value if isinstance(x, TokenRows) else _of_itself(graph, x, prefix, weights)
        if isinstance(x, TokenRows):
            query, key, value = x.query, x.key, x.value
        else:
            key = linear(graph, x, f"{prefix}.key", weights.key)
            value = linear(graph, x, f"{prefix}.value", weights.value)
            query = linear(graph, x, f"{prefix}.query", weights.query) if attention.needs_query else ""
        return linear(graph, attention.mix(graph, number, query, key, value), f"{prefix}.out", weights.out)


def _of_itself(graph: GraphBuilder, x: str, prefix: str, weights: Attention) -> str:
    """What attention makes of a token that sees itself alone: its value, whose two products are one."""
    return linear(graph, x, f"{prefix}.value_out", weights.value @ weights.out)


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


def _output_name(model: SourceModel) -> str:
    """Of the output layer's weight. It lies as the embedding does: a tied one is stored once."""
    return "embedding" if model.output is model.embedding else "output"


def vocabulary_logits(graph: GraphBuilder, model: SourceModel, final: str) -> str:
    """Scores of all tokens: decoder states [rows, d] → [rows, vocabulary]."""
    return _logits(graph, final, _output_name(model), model.output)


def _logits(graph: GraphBuilder, final: str, name: str, table: Float32Array) -> str:
    """[rows, d] or [batch, beams, d], [tokens, d] → the same with tokens in place of d."""
    with graph.scope("output"):
        if graph.precision == INT8:
            return integer_output(graph, final, name, table)
        weight = graph.to_float32(graph.float_weight(name, table))
        if graph.row_axis == 1:
            return graph.make("Gemm", final, weight, transB=1)
        grid = Grid.of(graph, final)  # Gemm takes matrices alone
        return grid.spread(graph, graph.make("Gemm", grid.pack(graph, final), weight, transB=1))
