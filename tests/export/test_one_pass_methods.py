"""One pass with prompt vectors for each user, and with a backbone that stays: trained, resumed, exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from podx.bundle.bundle import TOKENIZER_FILE
from podx_export.pipeline import export_checkpoint
from podx_train.model.tokenizer_training import train_tokenizer
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.export.one_pass_world import CODES, one_pass_world

WORLD = one_pass_world(CODES["two codes"])
OPTIONS = TrainOptions(targets="pass", epochs=2, batch_size=16, device="cpu", lr=1e-2, average=0.9)
METHODS: dict[str, dict[str, Any]] = {
    "peapod": {"user_prompts": 3},
    "lora": {"adapter": "lora", "lora_rank": 2},
    "prompt-only": {"adapter": "prompt-only"},
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    (folder / TOKENIZER_FILE).write_bytes(train_tokenizer(WORLD, 170))
    config = T5Config(
        vocab_size=190, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=2, num_heads=2, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_resumes_and_answers_as_the_eager_model(method: str, backbone: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, **METHODS[method])
    source = Source(preset="micro", pieces=170) if method == "peapod" else Source(backbone=str(backbone))
    whole = train_model(WORLD, tmp_path / "whole", options, source)
    assert len(whole.curve) == options.epochs
    train_model(WORLD, tmp_path / "parts", dataclasses.replace(options, epochs=1), source)
    train_model(WORLD, tmp_path / "parts", options, source, resume=True)
    weights, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    parity = export_checkpoint(tmp_path / "whole", tmp_path / "bundle", parity_users=8).parity
    assert parity["equal_lists"] == 1.0
    assert parity["max_difference"] < 1e-4
