"""A checkpoint as a plain Hugging Face T5: what every other library can read. Prompts and whole words stay behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from podx.bundle.bundle import TOKENIZER_FILE
from podx.errors import ConfigError
from podx_train.checkpoint.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from podx_train.model.config import PodConfig

PLAIN_VERSION = "1"
"""To be raised when what is written changes: it is part of the cache's key."""
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def write_plain(checkpoint: Checkpoint, folder: Path) -> None:
    """Write configuration, weights and tokeniser of the backbone.

    Raises:
        ConfigError: other versions of transformers cannot describe this T5.
    """
    tensors = {name: weight.detach().contiguous() for name, weight in checkpoint.model.backbone.named_parameters()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})  # tied weights once
    shutil.copyfile(checkpoint.tokenizer.path, folder / TOKENIZER_FILE)
    # rows of the embedding beyond the pieces get names of their own, so that there is a name for every row
    rows = checkpoint.config.backbone["vocab_size"] - checkpoint.tokenizer.vocab_size
    _write_json(folder / TOKENIZER_CONFIG_FILE, {"tokenizer_class": "T5Tokenizer", "extra_ids": rows})
    _write_json(folder / CONFIG_FILE, t5_config(checkpoint.config))


def t5_config(config: PodConfig) -> dict[str, Any]:
    """The backbone's ``config.json`` as transformers before version 5 reads it.

    Raises:
        ConfigError: the decoder's outputs are scaled although the output layer is not tied, or the other way round:
            older versions of transformers have one switch for both.
    """
    if config.backbone["scale_decoder_outputs"] != config.tied_output:
        raise ConfigError(
            "the peers cannot run this model: with them, T5 scales its decoder's outputs where the output layer is the "
            "token embedding and nowhere else; leave them out of --engines"
        )
    return {
        **config.backbone,
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "model_type": "t5",
        "tie_word_embeddings": config.tied_output,
        "use_cache": True,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
