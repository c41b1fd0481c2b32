"""A model of the published layout, saved whole as the published code saves it, and files that mean harm."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

ORDER = ("explanation", "sequential", "topn")
"""Tasks in the order of the published code's prompt vectors."""


class Solomon(T5ForConditionalGeneration):
    """A T5 with a flat table of prompt vectors and a table of whole words; saved as class ``module.Solomon``."""

    def add_tables(self, tasks: int, per_task: int, rows: int) -> None:
        width = self.config.d_model
        self.prompts_per_task = per_task
        self.model_device = torch.device("cpu")
        self.prompt_embeddings = nn.Embedding(tasks * per_task, width)
        self.whole_word_embeddings = nn.Embedding(rows, width)
        self.prompt_offset = torch.arange(per_task)

    def next_token_logits(self, task: str, ids: Tensor, words: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Logits [batch, target, vocabulary] as the published code computes them: cross-attention sees padding."""
        first = ORDER.index(task) * self.prompts_per_task
        prompt = self.prompt_embeddings.weight[first : first + self.prompts_per_task].expand(len(ids), -1, -1)
        inputs = torch.cat([prompt, self.shared(ids) + self.whole_word_embeddings(words)], dim=1)
        seen = torch.cat([torch.ones(len(ids), self.prompts_per_task, dtype=torch.int64), mask], dim=1)
        encoded = self.encoder(inputs_embeds=inputs, attention_mask=seen)
        shifted = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], dim=1)
        return self(encoder_outputs=encoded, decoder_input_ids=shifted, use_cache=False).logits


Solomon.__module__ = "module"
# Early releases of transformers 5 look for the file of the class's module, which this one has not.
Solomon._can_set_experts_implementation = classmethod(lambda _: False)  # type: ignore[attr-defined]


def solomon(config: T5Config, tasks: int = 3, per_task: int = 2, rows: int = 64, seed: int = 0) -> Solomon:
    """Random weights, every table its own."""
    torch.manual_seed(seed)
    model = Solomon(copy.deepcopy(config)).eval()
    model.add_tables(tasks, per_task, rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save_whole(model: nn.Module, path: Path, **options: Any) -> Path:
    """``torch.save`` of the module while the code it names can be imported, which ends with the call."""
    fake = types.ModuleType("module")
    fake.Solomon = Solomon  # type: ignore[attr-defined]
    sys.modules["module"] = fake
    try:
        torch.save(model, path, **options)
    finally:
        del sys.modules["module"]
    return path


def as_transformers_4(model: Solomon) -> Solomon:
    """What the configuration of transformers 4.18 did not have is taken away, what it had besides is added."""
    for config in (model.config, model.encoder.config, model.decoder.config):
        for name in ("relative_attention_max_distance", "scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
            config.__dict__.pop(name, None)
        config.__dict__.update(n_positions=512, tie_word_embeddings=True, torch_dtype=torch.float32)
    return model


class Payload:
    """Pickled as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call
