"""Backbones: presets with random weights, and T5 models by name or folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, T5Config, T5ForConditionalGeneration
from transformers.utils.hub import cached_file

from podx.errors import CheckpointError, ConfigError
from podx.text.tokenizer import Tokenizer
from podx_train.console import quiet_transformers

TOKENIZER_FILE = "spiece.model"
DEFAULT_PRESET = "tiny"

NO_DROPOUT = 0.0
"""For presets that learn one target an input: in the minutes they are meant for they do not overfit, and dropout on
attention over 400 tokens takes half of a CPU's step time. One pass over a user sees every target in each epoch, so
``micro`` and ``flat``, which are meant for it, do overfit."""


def _shape(d_model: int, num_heads: int, layers: tuple[int, int], **fields: float) -> Mapping[str, Any]:
    """Fields of a T5Config in T5's usual proportions; ``layers``: of encoder and decoder."""
    shape = {"d_model": d_model, "d_kv": d_model // num_heads, "d_ff": 4 * d_model, "num_heads": num_heads}
    return {**shape, "num_layers": layers[0], "num_decoder_layers": layers[1], **fields}


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "micro": _shape(64, 1, (1, 1), dropout_rate=0.4),
        "flat": _shape(128, 4, (1, 1), dropout_rate=0.5),
        "tiny": _shape(64, 4, (2, 2), dropout_rate=NO_DROPOUT),
        "mini": _shape(128, 4, (3, 2), dropout_rate=NO_DROPOUT),
        "t5-small": _shape(512, 8, (6, 6)),
    }
)

T5_PIECES = 32_000
T5_ROWS = 32_128
VOCABULARY_MULTIPLE = 8
"""Embedding rows are rounded up to this: matrix products like multiples of eight."""


def vocabulary_rows(tokenizer: Tokenizer) -> int:
    """Embedding rows of a preset: T5's own 32,128 for T5's sentencepiece model, else the pieces rounded up."""
    if tokenizer.vocab_size == T5_PIECES:
        return T5_ROWS
    return rounded_rows(tokenizer.vocab_size)


def rounded_rows(pieces: int) -> int:
    """Embedding rows for so many pieces."""
    return -(-pieces // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def parse_layers(text: str) -> tuple[int, int]:
    """Layers of encoder and decoder from ``ENCODER,DECODER``.

    Raises:
        ConfigError: it is not two numbers from 1 on.
    """
    try:
        encoder, decoder = (int(part) for part in text.split(","))
    except ValueError:
        encoder = decoder = 0
    if min(encoder, decoder) < 1:
        raise ConfigError(f"--layers must be two numbers from 1 on, encoder and decoder, such as 2,6; not {text!r}")
    return encoder, decoder


def preset_config(name: str, tokenizer: Tokenizer, layers: tuple[int, int] | None = None) -> T5Config:
    """The T5Config of a preset, its vocabulary and special ids taken from the tokeniser.

    Args:
        layers: of encoder and decoder; None: the preset's.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: choose among {', '.join(PRESETS)}, or give --backbone")
    fields = dict(PRESETS[name]) | special_ids(tokenizer)
    if layers is not None:
        fields["num_layers"], fields["num_decoder_layers"] = layers
    return T5Config(vocab_size=vocabulary_rows(tokenizer), feed_forward_proj="relu", **fields)


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens of a T5 as its configuration names them."""
    pad, eos = tokenizer.pad_id, tokenizer.eos_id
    return {"pad_token_id": pad, "eos_token_id": eos, "decoder_start_token_id": pad}


def load_backbone(name_or_folder: str) -> T5ForConditionalGeneration:
    """A T5 with its weights (t5, v1.1, flan), float32; only safetensors files are read, never pickles.

    Raises:
        ConfigError: it cannot be found, or is not a T5.
        CheckpointError: it was found, but its weights are missing or damaged.
    """
    where = f"backbone {name_or_folder!r}"
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(name_or_folder)
    except (OSError, ValueError, HFValidationError) as error:
        raise ConfigError(
            f"{where} cannot be loaded: give a folder with config.json and model.safetensors, or the name of a model "
            f"that this machine can download ({_first_line(error)})"
        ) from error
    if config.model_type != "t5":
        raise ConfigError(f"{where} is of type {config.model_type!r}; podx needs a T5 (t5, t5 v1.1, flan-t5)")
    try:
        with quiet_transformers():
            loaded: Any = T5ForConditionalGeneration.from_pretrained(
                name_or_folder, config=config, use_safetensors=True, dtype="float32", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights of {where} cannot be loaded: it needs an undamaged model.safetensors ({_first_line(error)})"
        ) from error
    model: T5ForConditionalGeneration
    model, report = loaded
    if report["missing_keys"]:
        raise CheckpointError(f"the weights of {where} lack {', '.join(sorted(report['missing_keys'])[:3])}, …")
    return model


def grow_vocabulary(backbone: T5ForConditionalGeneration, rows: int) -> None:
    """Give token embedding and output layer at least so many rows; new ones are drawn with the spread of the old.

    An output layer of its own (T5 v1.1, flan) stays its own, where transformers would tie it to the embedding.
    """
    old = backbone.lm_head.weight.detach().clone()
    tied = backbone.lm_head.weight is backbone.shared.weight
    with quiet_transformers():
        backbone.resize_token_embeddings(max(backbone.config.vocab_size, rows))
    if not tied:
        new = old.mean(0) + old.std(0) * torch.randn(len(backbone.shared.weight) - len(old), old.shape[1])
        backbone.lm_head.weight = nn.Parameter(torch.cat([old, new]))


def backbone_tokenizer(name_or_folder: str) -> Path:
    """The sentencepiece model that came with a backbone.

    Raises:
        ConfigError: there is none.
    """
    try:
        path = cached_file(name_or_folder, TOKENIZER_FILE)
    except (OSError, ValueError, HFValidationError) as error:
        raise ConfigError(
            f"backbone {name_or_folder!r} comes without {TOKENIZER_FILE}: give its sentencepiece model with "
            f"--tokenizer FILE ({_first_line(error)})"
        ) from error
    return Path(str(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
