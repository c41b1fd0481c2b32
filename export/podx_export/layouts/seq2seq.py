"""A POD model as the three graphs by which Optimum knows a sequence-to-sequence model.

encoder_model:            input_ids ── rows of tokens and prompts ──(+)── N layers ── norm ── last_hidden_state
                              └─ which word is an id, and the how-manieth ── whole-word rows ─┘
decoder_model:            tokens so far, last_hidden_state → logits, K and V of self- and cross-attention
decoder_with_past_model:  one more token, K and V → logits, K and V of self-attention with this token's appended

Prompt vectors are rows of the encoder's table behind those of the pieces, so K tokens stand for them. Whole-word ids
are found from a table of the tokens (:class:`TokenKinds`): which of them begin an id, and which begin anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.bundle.signature import INPUT_IDS, ModelShape, TensorSpec
from podx_export.blocks.decoder import TokenRows, decode_step, memory_bias, vocabulary_logits
from podx_export.blocks.encoder import cross_states, hidden_states
from podx_export.blocks.graph import INT64, INT64_MAX, GraphBuilder
from podx_export.blocks.layers import embed
from podx_export.blocks.rows import Grid
from podx_export.blocks.self_attention import SlotAttention
from podx_export.blocks.source import Float32Array, SourceModel
from podx_export.blocks.weights import WeightStore

ENCODER_MODEL, DECODER_MODEL, DECODER_WITH_PAST_MODEL = "encoder_model", "decoder_model", "decoder_with_past_model"
CONTINUES, BEGINS_ID, BEGINS_OTHER = 0, 1, 2
"""Kinds of a token: inside a word; first of an id; first of another word, or a sign that is no word."""

_BATCH, _SOURCE, _TARGET, _PAST, _SLOTS = "batch", "source", "target", "past", "slots"
_MASK, _HIDDEN, _CROSS_MASK = "attention_mask", "last_hidden_state", "encoder_attention_mask"


@dataclass(frozen=True)
class TokenKinds:
    """What each row of the encoder's table is to a whole-word id. ``kinds``: int64 [rows]."""

    kinds: npt.NDArray[np.int64]

    def whole_words(self, graph: GraphBuilder, ids: str) -> str:
        """Whole-word ids of tokens: int64 [batch, source] → the same, numbered as :mod:`podx.text.inputs` does."""
        with graph.scope("whole_words"):
            kind = graph.make("Gather", graph.weight("token_kinds", self.kinds), ids)
            begins = graph.cast(graph.make("Greater", kind, graph.int_scalar(CONTINUES)), INT64)
            begins_id = graph.cast(graph.make("Equal", kind, graph.int_scalar(BEGINS_ID)), INT64)
            word = graph.make("CumSum", begins, graph.int_scalar(1))
            size = graph.make("Add", graph.make("Shape", ids), graph.ints(0, 1))
            none = graph.make("Expand", graph.int_scalar(0), size)  # words are numbered from 1
            is_id = graph.make("ScatterElements", none, word, begins_id, axis=1, reduction="add")
            number = graph.make("CumSum", begins_id, graph.int_scalar(1))
            return graph.make("Mul", number, graph.make("GatherElements", is_id, word, axis=1))


def encoder_table(model: SourceModel, pieces: int) -> Float32Array:
    """Rows of the pieces, then of the prompt vectors, task by task: [pieces + tasks·K, d].

    Every token that belongs to no id gets the first whole-word row, prompts too; what the model does not add to them is
    taken off here.
    """
    prompts = model.prompts if model.whole_word_on_prompt else model.prompts - model.whole_word[0]
    return np.concatenate([model.embedding[:pieces], prompts.reshape(-1, model.width)])


def build_encoder_model(
    model: SourceModel, table: Float32Array, kinds: TokenKinds, weights: WeightStore
) -> GraphBuilder:
    """The first graph. ``table``: see :func:`encoder_table`."""
    graph = GraphBuilder(ENCODER_MODEL, weights)
    ids, mask = (graph.input(TensorSpec(name, "int64", (_BATCH, _SOURCE))) for name in (INPUT_IDS, _MASK))
    with graph.scope("embedding"):
        tokens = embed(graph, "embedding", table, ids)
        words = embed(graph, "whole_word", model.whole_word, kinds.whole_words(graph, ids))
        hidden = graph.make("Add", tokens, words)
    grid, rows = hidden_states(graph, model, hidden, mask, task="", packed=True)
    graph.output(TensorSpec(_HIDDEN, "float32", (_BATCH, _SOURCE, model.width)), grid.spread(graph, rows))
    return graph


def build_decoder_model(model: SourceModel, weights: WeightStore) -> GraphBuilder:
    """The second graph: any number of tokens that nothing came before."""
    graph = GraphBuilder(DECODER_MODEL, weights)
    mask = graph.input(TensorSpec(_CROSS_MASK, "int64", (_BATCH, _SOURCE)))
    ids = graph.input(TensorSpec(INPUT_IDS, "int64", (_BATCH, _TARGET)))
    states = graph.input(TensorSpec("encoder_hidden_states", "float32", (_BATCH, _SOURCE, model.width)))
    grid = Grid.of(graph, states)
    cross = cross_states(graph, model, grid, grid.pack(graph, states), task="")
    shape = graph.concat([graph.dimension(ids, 0), graph.ints(model.shape.heads, 0, model.shape.head_dim)], axis=0)
    nothing = graph.make("Expand", graph.float_scalar(0.0), shape)
    _decode(graph, model, ids, mask, cross, [nothing] * len(cross), _TARGET)
    for spec, value in zip(_states(model.shape, "present", "encoder", _SOURCE), cross, strict=True):
        graph.output(spec, value)
    return graph


def build_decoder_with_past_model(model: SourceModel, weights: WeightStore) -> GraphBuilder:
    """The third graph: tokens after those whose keys and values are given."""
    graph = GraphBuilder(DECODER_WITH_PAST_MODEL, weights)
    mask = graph.input(TensorSpec(_CROSS_MASK, "int64", (_BATCH, _SOURCE)))
    ids = graph.input(TensorSpec(INPUT_IDS, "int64", (_BATCH, _TARGET)))
    own, memory = (
        _states(model.shape, "past_key_values", kind, length)
        for kind, length in (("decoder", _PAST), ("encoder", _SOURCE))
    )
    for first in range(0, len(own), 2):  # Optimum gives them in this order, whatever their names
        for spec in (*own[first : first + 2], *memory[first : first + 2]):
            graph.input(spec)
    past, cross = ([spec.name for spec in specs] for specs in (own, memory))
    _decode(graph, model, ids, mask, cross, past, _SLOTS)
    return graph


def _decode(
    graph: GraphBuilder, model: SourceModel, ids: str, mask: str, cross: list[str], past: list[str], slots: str
) -> None:
    """From tokens to the outputs that both decoders have. ``slots``: name of the axis of keys in ``present``."""
    hidden = embed(graph, "embedding", model.embedding, ids)
    grid = Grid.of(graph, hidden)
    attention = SlotAttention(graph, model, _distance(graph, ids, past[0]), past, grid)
    tokens = TokenRows.of(graph, model, grid.pack(graph, hidden))
    bias = memory_bias(graph, mask, graph.dimension(ids, 1))
    logits = vocabulary_logits(graph, model, decode_step(graph, model, tokens, grid, attention, cross, bias))
    graph.output(TensorSpec("logits", "float32", (_BATCH, _TARGET, model.shape.vocab_size)), grid.spread(graph, logits))
    for spec, value in zip(_states(model.shape, "present", "decoder", slots), attention.present, strict=True):
        graph.output(spec, value)


def _distance(graph: GraphBuilder, ids: str, past: str) -> str:
    """How far each key lies behind each token, -1 where after it: int64 [1, target, past + target].

    Tokens stand where :class:`SlotAttention` has beams: they share a row's keys in the same way.
    """
    with graph.scope("distance"):
        before = graph.dimension(past, 2)
        keys = graph.arange(graph.make("Add", before, graph.dimension(ids, 1)))
        queries = graph.make("Slice", keys, before, graph.ints(INT64_MAX))
        behind = graph.make("Sub", graph.unsqueeze(queries, 1), graph.unsqueeze(keys, 0))
        return graph.unsqueeze(graph.make("Max", behind, graph.int_scalar(-1)), 0)


def _states(shape: ModelShape, when: str, kind: str, length: str) -> Sequence[TensorSpec]:
    """Keys and values by layer, [batch, heads, length, head_dim], under the names that Optimum looks for."""
    names = [f"{when}.{layer}.{kind}.{part}" for layer in range(shape.decoder_layers) for part in ("key", "value")]
    return [TensorSpec(name, "float32", (_BATCH, shape.heads, length, shape.head_dim)) for name in names]
