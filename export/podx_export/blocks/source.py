"""The weights of a POD model as numpy arrays, as the graphs want them: input × output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from podx.bundle.signature import ModelShape
from podx.text.inputs import PLAIN_WORD
from podx.text.templates import Task
from podx_train.model.pod_t5 import ModelBatch, PodT5

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeedForward:
    """``inner``: [d, d_ff], or [d, 2·d_ff] with the gate first when gated; ``outer``: [d_ff, d]."""

    norm: Float32Array
    inner: Float32Array
    outer: Float32Array


@dataclass(frozen=True)
class Attention:
    """``query``, ``key``, ``value``: [d, heads·head_dim]; ``out``: [heads·head_dim, d]; ``norm``: of what goes in."""

    norm: Float32Array
    query: Float32Array
    key: Float32Array
    value: Float32Array
    out: Float32Array


@dataclass(frozen=True)
class EncoderLayer:
    """One layer of the encoder."""

    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class DecoderLayer:
    """One layer of the decoder. The key and value of ``cross`` read the encoder's output."""

    attention: Attention
    cross: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class SharedPositions:
    """What a causal encoder makes of the positions that every input begins with: prompt vectors and the start token.

    They see nothing of a user, so they are computed once, at export.

    Attributes:
        keys, values: layer by layer, [tasks, positions, heads·head_dim]. states: encoder output, [tasks, positions, d].
    """

    keys: tuple[Float32Array, ...]
    values: tuple[Float32Array, ...]
    states: Float32Array


@dataclass(frozen=True)
class SourceModel:
    """Everything the graphs are made of.

    Attributes:
        prompts: [tasks, K, d]; whole_word: [rows, d]; embedding: [vocab, d].
        user_prompts: [users + 1, P, d], by user number, row 0 for users without any; None: users have no vectors.
        output: [vocab, d]; the same array as ``embedding`` where the model ties the two.
        output_scale: factor on the decoder state before the output layer (d^-0.5 when the output is tied).
        encoder_bias: [2·max_distance + 1, heads], position bias by (key - query) + max_distance.
        decoder_bias: [max_distance + 1, heads], position bias by query - key.
        causal: by row of the prompts, whether a position sees the prompt vectors and what comes before it alone; a
            decoder then starts from the last token read (one-pass models).
        ceiling: how likely an item's last token of several may be among its siblings.
        shared: the first positions of every input; None where they are not the same for all users.
        activation: name of the feed-forward's activation; ``gated`` whether it has a gate.
    """

    shape: ModelShape
    width: int
    prompts: Float32Array
    whole_word: Float32Array
    whole_word_on_prompt: bool
    embedding: Float32Array
    output: Float32Array
    output_scale: float
    encoder: tuple[EncoderLayer, ...]
    encoder_norm: Float32Array
    encoder_bias: Float32Array
    decoder: tuple[DecoderLayer, ...]
    decoder_norm: Float32Array
    decoder_bias: Float32Array
    epsilon: float
    activation: str
    gated: bool
    max_distance: int
    start_token: int
    user_prompts: Float32Array | None = None
    causal: tuple[bool, ...] = ()
    shared: SharedPositions | None = None
    ceiling: float = 1.0

    @property
    def one_pass(self) -> bool:
        """Whether it is a one-pass model."""
        return any(self.causal)

    @property
    def prompt_vectors(self) -> int:
        """Vectors in front of the text: the task's and the user's."""
        of_user = 0 if self.user_prompts is None else self.user_prompts.shape[1]
        return int(self.prompts.shape[1]) + int(of_user)


def _array(tensor: torch.Tensor) -> Float32Array:
    return tensor.detach().to(torch.float32).cpu().numpy()


def _matrix(*linears: nn.Linear) -> Float32Array:
    """Weights of linear layers that read the same input, side by side: [input, sum of outputs]."""
    return np.concatenate([_array(linear.weight).T for linear in linears], axis=1)


# The parts of transformers' T5 are Any below: torch knows their attributes only as "tensor or module".


def _attention(norm: Any, attention: Any) -> Attention:
    matrices = (_matrix(part) for part in (attention.q, attention.k, attention.v, attention.o))
    return Attention(_array(norm.weight), *matrices)


def _feed_forward(block: Any) -> FeedForward:
    dense = block.DenseReluDense
    gated = hasattr(dense, "wi_0")
    inner = _matrix(dense.wi_0, dense.wi_1) if gated else _matrix(dense.wi)
    return FeedForward(_array(block.layer_norm.weight), inner, _matrix(dense.wo))


def _bias(attention: Any, offsets: torch.Tensor, bidirectional: bool) -> Float32Array:
    """Bias of each offset (key - query), [offsets, heads], by T5's own buckets."""
    buckets = attention._relative_position_bucket(
        offsets,
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return _array(attention.relative_attention_bias(buckets))


def _encoder_layer(block: Any) -> EncoderLayer:
    attention, dense = block.layer
    return EncoderLayer(_attention(attention.layer_norm, attention.SelfAttention), _feed_forward(dense))


def _decoder_layer(block: Any) -> DecoderLayer:
    attention, cross, dense = block.layer
    return DecoderLayer(
        _attention(attention.layer_norm, attention.SelfAttention),
        _attention(cross.layer_norm, cross.EncDecAttention),
        _feed_forward(dense),
    )


def _shared_positions(model: Any, causal: tuple[bool, ...]) -> SharedPositions | None:
    """The model is left in evaluation mode."""
    if not all(causal) or model.user_prompts is not None:
        return None
    seen: dict[nn.Module, Float32Array] = {}
    attentions = [block.layer[0].SelfAttention for block in model.eval().backbone.encoder.block]
    parts = [part for attention in attentions for part in (attention.k, attention.v)]
    hooks = [part.register_forward_hook(lambda own, _, out: seen.update({own: _array(out)})) for part in parts]
    task = torch.arange(len(causal), device=model.prompts.device)
    start = torch.full_like(task, model.backbone.config.pad_token_id)[:, None]
    states, _ = model.encode(ModelBatch(start, torch.full_like(start, PLAIN_WORD), torch.ones_like(start), task))
    for hook in hooks:
        hook.remove()
    keys, values = (tuple(seen[part] for part in parts[first::2]) for first in (0, 1))
    return SharedPositions(keys, values, _array(states))


@torch.no_grad()
def read_model(model: PodT5) -> SourceModel:
    """Take a model apart. No dropout is exported, in whatever mode the model is."""
    backbone: Any = model.backbone
    config, encoder, decoder = backbone.config, backbone.encoder, backbone.decoder
    distance = int(config.relative_attention_max_distance)
    both_ways = torch.arange(-distance, distance + 1)
    backwards = -torch.arange(0, distance + 1)
    embedding = _array(backbone.shared.weight)
    causal = tuple(model.config.one_pass and task is Task.SEQUENTIAL for task in model.config.tasks)
    tied = backbone.lm_head.weight is backbone.shared.weight
    scaled = bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))
    return SourceModel(
        shape=ModelShape(config.num_decoder_layers, config.num_heads, config.d_kv, config.vocab_size),
        width=config.d_model,
        prompts=_array(model.prompts),
        whole_word=_array(model.whole_word.weight),
        whole_word_on_prompt=model.config.whole_word_on_prompt,
        embedding=embedding,
        output=embedding if tied else _array(backbone.lm_head.weight),
        output_scale=config.d_model**-0.5 if scaled else 1.0,
        encoder=tuple(_encoder_layer(block) for block in encoder.block),
        encoder_norm=_array(encoder.final_layer_norm.weight),
        encoder_bias=_bias(encoder.block[0].layer[0].SelfAttention, both_ways, bidirectional=True),
        decoder=tuple(_decoder_layer(block) for block in decoder.block),
        decoder_norm=_array(decoder.final_layer_norm.weight),
        decoder_bias=_bias(decoder.block[0].layer[0].SelfAttention, backwards, bidirectional=False),
        epsilon=config.layer_norm_epsilon,
        activation=config.dense_act_fn,
        gated=bool(config.is_gated_act),
        max_distance=distance,
        start_token=config.decoder_start_token_id,
        user_prompts=None if model.user_prompts is None else model.user_prompts.table().numpy(),
        causal=causal,
        shared=_shared_positions(model, causal),
        ceiling=model.config.ceiling,
    )
