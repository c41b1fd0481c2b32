"""ONNX Runtime's own BeamSearch operator: encoder and decoder step as its subgraphs, the search in C++.

Its converter (``onnxruntime.transformers.convert_generation``) does not make a graph that a CPU runs: it writes
RelativePositionBias, which has no CPU kernel, and hands transformers the decoder's cache as tuples, which
transformers 4.57 refuses. So the two subgraphs are exported here, in the form the operator asks for.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, parser
from torch import Tensor, nn
from transformers import EncoderDecoderCache, T5ForConditionalGeneration

from podx_bench.peers.optimum_ort import PROVIDER, session_options
from podx_bench.peers.searching import Hypotheses, Plan, Search, in_batches

MODEL_FILE = "beamsearch.onnx"
OPSET = 17
BATCH, SOURCE = "batch", "source"
GRAPH = """
<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
beam_search (
    int32[batch, source] input_ids, int32[batch, source] attention_mask, int32[1] max_length, int32[1] min_length,
    int32[1] num_beams, int32[1] num_return_sequences, float[1] length_penalty, float[1] repetition_penalty
) => (int32[batch, hypotheses, length] sequences) {
    sequences = com.microsoft.BeamSearch <model_type: int = 1, no_repeat_ngram_size: int = 0, early_stopping: int = 0> (
        input_ids, max_length, min_length, num_beams, num_return_sequences, length_penalty, repetition_penalty, "", "",
        attention_mask
    )
}
"""
"""The operator alone. Model type 1 is T5; the two inputs without a name would be masks of the vocabulary. The file's
version is not the newest that onnx writes, for that is newer than what ONNX Runtime reads."""
NUMBERS = ("max_length", "min_length", "num_beams", "num_return_sequences")
FACTORS = ("length_penalty", "repetition_penalty")
_ROWS, _SOURCE, _PAST = 2, 3, 5
"""Sizes of the example inputs that the exporter traces; each different."""


class Part(nn.Module):
    """A part of a model that is exported as a subgraph."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model


class CrossStates(Part):
    """First subgraph: source tokens → keys and values of every decoder layer's cross-attention."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Keys and values by layer, each [batch, heads, source, head_dim]."""
        hidden = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        attentions = [block.layer[1].EncDecAttention for block in self.model.decoder.block]
        shape = (*hidden.shape[:2], self.model.config.num_heads, self.model.config.d_kv)
        return tuple(
            part(hidden).view(shape).transpose(1, 2) for attention in attentions for part in (attention.k, attention.v)
        )


class Step(Part):
    """Second subgraph: one token of every beam, its past and the cross states → logits and the past with this step."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Logits [rows, 1, vocabulary], then keys and values by layer, [rows, heads, past + 1, head_dim]."""
        config = self.model.config
        own, cross = states[: len(states) // 2], states[len(states) // 2 :]
        layers = [(*own[at : at + 2], *cross[at : at + 2]) for at in range(0, len(own), 2)]
        output = self.model.decoder(
            input_ids=input_ids,
            past_key_values=EncoderDecoderCache.from_legacy_cache(tuple(layers)),
            encoder_hidden_states=attention_mask.unsqueeze(2).float(),  # only its shape is looked at
            encoder_attention_mask=attention_mask,
            use_cache=True,
        )
        scale = config.d_model**-0.5 if config.tie_word_embeddings else 1.0
        logits = self.model.lm_head(output.last_hidden_state * scale)
        kept = output.past_key_values.self_attention_cache.layers
        return (logits, *(state for layer in kept for state in (layer.keys, layer.values)))


def state_names(when: str, kind: str, layers: int) -> list[str]:
    """The operator's names of the states, ``past_key_self_0`` and so on."""
    return [f"{when}_{part}_{kind}_{layer}" for layer in range(layers) for part in ("key", "value")]


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], axes: dict[str, dict[int, str]]) -> Any:
    """Graph of a module."""
    written = io.BytesIO()
    with torch.inference_mode():
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            written,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(written.getvalue()).graph


def encoder_graph(model: T5ForConditionalGeneration) -> onnx.GraphProto:
    """The first subgraph."""
    source = torch.ones(_ROWS, _SOURCE, dtype=torch.int32)
    inputs = {"encoder_input_ids": source, "encoder_attention_mask": source}
    outputs = state_names("present", "cross", model.config.num_decoder_layers)
    axes = {name: {0: BATCH, 1: SOURCE} for name in inputs} | {name: {0: BATCH, 2: SOURCE} for name in outputs}
    return _export(CrossStates(model), inputs, outputs, axes)


def decoder_graph(model: T5ForConditionalGeneration) -> onnx.GraphProto:
    """The second subgraph."""
    config, layers = model.config, model.config.num_decoder_layers
    past, cross = state_names("past", "self", layers), state_names("past", "cross", layers)
    kept = state_names("present", "self", layers)
    ones = torch.ones(_ROWS, _SOURCE, dtype=torch.int32)  # the operator's tokens and masks
    inputs = {"input_ids": ones[:, :1], "encoder_attention_mask": ones}
    for names, length in ((past, _PAST), (cross, _SOURCE)):
        inputs |= {name: torch.rand(_ROWS, config.num_heads, length, config.d_kv) for name in names}
    axes = {"input_ids": {0: BATCH}, "encoder_attention_mask": {0: BATCH, 1: SOURCE}, "logits": {0: BATCH}}
    for names, length in ((past, "past"), (cross, SOURCE), (kept, "present")):
        axes |= {name: {0: BATCH, 2: length} for name in names}
    return _export(Step(model), inputs, ["logits", *kept], axes)


def convert(name: str, plain: Path, out: Path) -> None:
    """Write one BeamSearch node around both subgraphs. Weights lie in the file: subgraphs cannot share one of them."""
    model = T5ForConditionalGeneration.from_pretrained(plain).eval()
    whole = parser.parse_model(GRAPH)
    tokens = {name: getattr(model.config, name) for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id")}
    subgraphs = {"encoder": encoder_graph(model), "decoder": decoder_graph(model)}
    attributes = [helper.make_attribute(name, value) for name, value in (tokens | subgraphs).items()]
    whole.graph.node[0].attribute.extend(attributes)
    onnx.save_model(whole, out / MODEL_FILE)


def open_search(name: str, plan: Plan) -> Search:
    """A search by one session run a batch."""
    options = session_options(plan.threads, plan.spin)
    session = onnxruntime.InferenceSession(plan.folder / MODEL_FILE, options, providers=[PROVIDER])
    numbers = (plan.steps + 1, plan.least + 1, plan.beams, plan.k)  # lengths count the decoder's start
    settings = {name: np.array([value], dtype=np.int32) for name, value in zip(NUMBERS, numbers, strict=True)}
    settings |= {name: np.ones(1, dtype=np.float32) for name in FACTORS}

    def search(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[Hypotheses]:
        tokens = {"input_ids": input_ids.astype(np.int32), "attention_mask": attention_mask.astype(np.int32)}
        (sequences,) = session.run(None, tokens | settings)
        return sequences[:, :, 1:].tolist()

    return in_batches(search, plan)
