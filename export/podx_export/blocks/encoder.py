"""The encoder graph: token ids in, cross-attention K and V of every decoder layer out.

    input_ids ── embedding ──(+)── whole-word embedding
    task_id ──── prompt table ──[concat]── N layers ── norm ── K, V per decoder layer (once per user, not per beam)
    user_rows ── user table ────────┘

The prompt vectors are constants of the graph (POD paper, section 3.3); they carry no whole-word embedding unless the
model was trained so. Prompt vectors of users (PeaPOD) depend on nothing but the user, so the attention that makes them
is computed for everybody at export; the graph holds the table, in a file of its own.

Where the encoder is causal and prompts are the task's alone, the prompt vectors and the start token have the same
states for all users. Then the graph holds their keys and values, and computes what comes after them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx_export.blocks.graph import BOOL, FLOAT, FP16, HALF_ARRAYS, INT8, INT64_MAX, GraphBuilder
from podx_export.blocks.layers import (
    add_and_norm,
    additive_mask,
    attention,
    embed,
    feed_forward,
    linear,
    masked_score,
    rms_norm,
    split_heads,
)
from podx_export.blocks.rows import Grid, LiveRows, Rows
from podx_export.blocks.source import Float32Array, SourceModel
from podx_export.blocks.weights import WeightStore


def build_encoder(model: SourceModel, weights: WeightStore, precision: str) -> GraphBuilder:
    """Graph of the encoder and the cross-attention projections."""
    graph = GraphBuilder("encoder", weights, precision)
    memory = encode(graph, model, [graph.input(spec) for spec in source_inputs(model)], packed=not graph.is_half)
    for spec, value in zip(sig.memory_tensors(model.shape), memory, strict=True):
        graph.output(spec, value if spec.dtype == "int64" else graph.to_float32(value))
    return graph


def source_inputs(model: SourceModel) -> list[sig.TensorSpec]:
    """What the encoder of this model reads."""
    return sig.encoder_inputs(user_rows=model.user_prompts is not None)


def encode(graph: GraphBuilder, model: SourceModel, inputs: list[str], packed: bool) -> list[str]:
    """The encoder's nodes, from ``encoder_inputs`` to ``memory_tensors`` (:mod:`podx.bundle.signature`).

    ``packed``: dense layers compute no padding. Shapes then depend on values.
    """
    ids, whole, mask, task, *rows = inputs
    with graph.scope("encoder"):
        if model.shared is not None:
            ids, whole, mask = _at_least_two(graph, [ids, whole, mask])
        hidden = _embed(graph, model, ids, whole, task, rows)
        memory_mask = _memory_mask(graph, model, mask)
        grid, memory = hidden_states(graph, model, hidden, memory_mask, task, packed)
        return [memory_mask, *cross_states(graph, model, grid, memory, task)]


def hidden_states(
    graph: GraphBuilder, model: SourceModel, hidden: str, memory_mask: str, task: str, packed: bool
) -> tuple[Rows, str]:
    """What the encoder makes of embedded positions.

    Args:
        hidden: [batch, memory, d]. memory_mask: int64 [batch, memory]. task: read where attention depends on it.
        packed: padding has no rows.

    Returns:
        where the rows lie, and the rows after the last norm, [rows, d].
    """
    bias = _attention_bias(graph, model, memory_mask, task)
    grid = _rows(graph, model, memory_mask) if packed else Grid.of(graph, hidden)
    return grid, _layers(graph, model, grid, grid.pack(graph, hidden), bias, task)


def _rows(graph: GraphBuilder, model: SourceModel, memory_mask: str) -> Rows:
    """A row for every position that is no padding, and at least one: the others point to it."""
    with graph.scope("rows"):
        own = memory_mask if model.shared is None else _after(graph, memory_mask, model.prompt_vectors + 1, 1)
        return LiveRows.of(graph, graph.cast(own, BOOL), least=graph.ints(1))


def _at_least_two(graph: GraphBuilder, parts: list[str]) -> list[str]:
    """Each [batch, source], with a column of padding where there is but the start token: something must be computed."""
    missing = graph.make("Max", graph.make("Sub", graph.ints(2), graph.dimension(parts[0], 1)), graph.int_scalar(0))
    shape = graph.concat([graph.dimension(parts[0], 0), missing], axis=0)
    padding = graph.make("Expand", graph.int_scalar(0), shape)
    return [graph.concat([part, padding], axis=1) for part in parts]


def _embed(graph: GraphBuilder, model: SourceModel, ids: str, whole: str, task: str, rows: list[str]) -> str:
    """→ [batch, memory, d]: prompt vectors, then tokens plus their whole-word vectors (Eq. before (1): S = …).

    Without the positions that are shared.
    """
    with graph.scope("embedding"):
        if model.shared is not None:
            ids, whole = (_after(graph, part, 1, 1) for part in (ids, whole))
        tokens = embed(graph, "embedding", model.embedding, ids)
        words = embed(graph, "whole_word", model.whole_word, whole)
        text = graph.make("Add", tokens, words)
        prompts = model.prompts + model.whole_word[0] if model.whole_word_on_prompt else model.prompts
        front = [_user_prompts(graph, model, user_rows) for user_rows in rows]
        if prompts.shape[1] and model.shared is None:
            front.insert(0, graph.make("Gather", graph.weight("prompts", prompts), task))
        return graph.concat([*front, text], axis=1)


def _user_prompts(graph: GraphBuilder, model: SourceModel, rows: str) -> str:
    """Mean of each user's rows of the table: int64 [batch, user_neighbours] → float32 [batch, P, d]."""
    table = model.user_prompts
    assert table is not None  # else the graph has no such input
    halved: npt.DTypeLike | None = HALF_ARRAYS.get(FP16 if graph.precision == INT8 else graph.precision)
    stored = table.reshape(len(table), -1).astype(halved or np.float32)
    weights = graph.sibling_weights(sig.USER_PROMPTS_FILE)
    with graph.scope("user_prompts"):
        name = graph.initializer(weights.tensor("user_prompts", stored))
        named = graph.make("GreaterOrEqual", rows, graph.int_scalar(0))
        vectors = graph.make("Gather", name, graph.make("Max", rows, graph.int_scalar(0)))
        vectors = vectors if halved is None else graph.cast(vectors, FLOAT)
        ones = graph.unsqueeze(graph.cast(named, FLOAT), 1)  # [batch, 1, user_neighbours]
        count = graph.make("ReduceSum", ones, graph.ints(2), keepdims=1)
        share = graph.make("Div", ones, graph.make("Max", count, graph.float_scalar(1.0)))  # no row at all: zeros
        return graph.reshape(graph.make("MatMul", share, vectors), 0, table.shape[1], table.shape[2])


def _after(graph: GraphBuilder, value: str, position: int, axis: int) -> str:
    """What stands at ``position`` and after it along an axis."""
    return graph.make("Slice", value, graph.ints(position), graph.ints(INT64_MAX), graph.ints(axis))


def _with_shared(graph: GraphBuilder, name: str, shared: Float32Array, task: str, value: str, axis: int) -> str:
    """What all rows of a task share, [tasks, …], in front of each row's own along an axis."""
    return graph.concat([graph.make("Gather", graph.float_weight(name, shared), task), value], axis=axis)


def _memory_mask(graph: GraphBuilder, model: SourceModel, mask: str) -> str:
    """Prompt vectors are always visible: [batch, source] → [batch, memory]."""
    if model.prompt_vectors == 0:
        return mask
    with graph.scope("memory_mask"):  # no Pad: ONNX Runtime has none for integers on CUDA
        shape = graph.make("Concat", graph.dimension(mask, 0), graph.ints(model.prompt_vectors), axis=0)
        visible = graph.make("Expand", graph.ints(1), shape)
        return graph.make("Concat", visible, mask, axis=1)


def _attention_bias(graph: GraphBuilder, model: SourceModel, memory_mask: str, task: str) -> str:
    """Position bias plus mask, made once for all layers: [batch, heads, memory, memory].

    Where all tasks are causal, padding comes after everything and needs no mask of its own: [1, heads, memory, memory].
    Positions that are shared have no queries.
    """
    with graph.scope("bias"):
        positions = graph.arange(graph.dimension(memory_mask, 1))
        keys = graph.make("Unsqueeze", positions, graph.ints(0))
        asking = positions if model.shared is None else _after(graph, positions, model.prompt_vectors + 1, 0)
        queries = graph.make("Unsqueeze", asking, graph.ints(1))
        offset = graph.make("Sub", keys, queries)
        far = model.max_distance
        bounds = graph.int_scalar(-far), graph.int_scalar(far)
        row = graph.make("Add", graph.make("Clip", offset, *bounds), graph.int_scalar(far))
        by_head = graph.weight("encoder_bias", np.ascontiguousarray(model.encoder_bias.T))
        table = graph.make("Gather", by_head, row, axis=1)
        position = graph.make("Unsqueeze", table, graph.ints(0))
        if not model.one_pass:
            return graph.make("Add", position, additive_mask(graph, memory_mask))
        later = graph.make("Greater", offset, graph.int_scalar(0))
        of_prompts = graph.make("Less", keys, graph.int_scalar(model.prompt_vectors))
        hidden = graph.make("And", later, graph.make("Not", of_prompts))
        if not all(model.causal):
            causal = graph.make("Gather", graph.weight("causal", np.array(model.causal)), task)
            hidden = graph.make("And", graph.unsqueeze(causal, 1, 2, 3), hidden)
            position = graph.make("Add", position, additive_mask(graph, memory_mask))
        return graph.make("Where", hidden, graph.float_scalar(masked_score(graph)), position)


def _layers(graph: GraphBuilder, model: SourceModel, grid: Rows, hidden: str, bias: str, task: str) -> str:
    """All layers and the last norm: [rows, d] → the same."""
    normed = rms_norm(graph, hidden, "encoder.0.norm", model.encoder[0].attention.norm, model.epsilon)
    following = [(f"encoder.{n}.norm", layer.attention.norm) for n, layer in enumerate(model.encoder)][1:]
    following.append(("encoder.norm", model.encoder_norm))
    for number, (layer, after) in enumerate(zip(model.encoder, following, strict=True)):
        prefix = f"encoder.{number}"
        with graph.scope(f"layers.{number}"):
            mixed = _self_attention(graph, model, number, grid, normed, bias, task)
            block = layer.feed_forward
            normed, hidden = add_and_norm(graph, hidden, mixed, f"{prefix}.ff_norm", block.norm, model.epsilon)
            dense = feed_forward(graph, normed, f"{prefix}.ff", block, model.activation, model.gated)
            normed, hidden = add_and_norm(graph, hidden, dense, *after, model.epsilon)
    return normed


def _self_attention(
    graph: GraphBuilder, model: SourceModel, number: int, grid: Rows, normed: str, bias: str, task: str
) -> str:
    prefix, weights = f"encoder.{number}", model.encoder[number].attention
    with graph.scope("self_attention"):
        parts = (("query", weights.query), ("key", weights.key), ("value", weights.value))
        rows = [linear(graph, normed, f"{prefix}.{part}", weight) for part, weight in parts]
        query, key, value = (grid.spread(graph, part) for part in rows)
        if model.shared is not None:
            key = _with_shared(graph, f"{prefix}.shared_key", model.shared.keys[number], task, key, 1)
            value = _with_shared(graph, f"{prefix}.shared_value", model.shared.values[number], task, value, 1)
        mixed = attention(graph, query, key, value, model.shape.heads, bias)
        return linear(graph, grid.pack(graph, mixed), f"{prefix}.out", weights.out)


def cross_states(graph: GraphBuilder, model: SourceModel, grid: Rows, memory: str, task: str) -> list[str]:
    """Cross-attention K and V of each decoder layer, [batch, heads, memory, head_dim], layer by layer."""
    shape = model.shape
    values: list[str] = []
    for number, layer in enumerate(model.decoder):
        with graph.scope(f"cross_attention.{number}"):
            for part, weight in (("key", layer.cross.key), ("value", layer.cross.value)):
                name = f"decoder.{number}.cross_{part}"
                projected = linear(graph, memory, name, weight)
                own = split_heads(graph, grid.spread(graph, projected), shape.heads, shape.head_dim)
                if model.shared is not None:
                    rows = (model.shared.states @ weight).reshape(*model.shared.states.shape[:2], shape.heads, -1)
                    own = _with_shared(graph, f"{name}.shared", rows.transpose(0, 2, 1, 3), task, own, 2)
                values.append(own)
    return values
