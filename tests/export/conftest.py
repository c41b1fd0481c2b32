"""Checkpoints and bundles made once for all export tests: untrained and trained, plain and gated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from podx_export.pipeline import export_checkpoint
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model

USERS, ITEMS, LENGTH, STEP = 1000, 300, 6, 7
PIECES = 170  # fewer than the ids, so that items have one to three tokens and some end inside another
WORDS = ("fine", "sturdy", "soft", "bright", "quick", "warm")


@pytest.fixture(scope="session")
def world() -> Dataset:
    """1,000 users who walk through 300 items in steps of seven, and say a word about one of them."""
    starts = np.random.default_rng(5).integers(0, ITEMS, size=(USERS, 1))
    items = ((starts + STEP * np.arange(LENGTH)) % ITEMS + 1).astype(np.int32)
    records = [
        ExplanationRecord(user, int(items[user - 1, 0]), f"the case is {WORDS[user % len(WORDS)]}", "case")
        for user in range(1, USERS + 1)
    ]
    return Dataset(
        items.ravel(),
        np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        [f"user-{n}" for n in range(USERS)],
        [f"item-{n}" for n in range(ITEMS)],
        explanations={"train": records[:800], "val": records[800:900], "test": records[900:]},
        scheme="paper",
    )


def _train(world: Dataset, folder: Path, epochs: int, **source: str) -> Path:
    options = TrainOptions(epochs=epochs, lr=5e-3, prompts=2, device="cpu")
    train_model(world, folder, options, Source(pieces=PIECES, **source))
    return folder


@pytest.fixture(scope="session")
def untrained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of random weights."""
    return _train(world, tmp_path_factory.mktemp("untrained") / "checkpoint", epochs=0)


@pytest.fixture(scope="session")
def trained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after one epoch."""
    return _train(world, tmp_path_factory.mktemp("trained") / "checkpoint", epochs=1)


@pytest.fixture(scope="session")
def gated(world: Dataset, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the shape of T5 v1.1: gated activation, an output layer of its own."""
    folder = tmp_path_factory.mktemp("v11")
    tokenizer = load_checkpoint(untrained).tokenizer
    config = T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        scale_decoder_outputs=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(3)
    backbone = T5ForConditionalGeneration(config)
    backbone.lm_head.weight = torch.nn.Parameter(torch.randn_like(backbone.shared.weight))
    backbone.save_pretrained(folder / "backbone")
    (folder / "backbone" / "spiece.model").write_bytes(tokenizer.path.read_bytes())
    return _train(world, folder / "checkpoint", epochs=0, backbone=str(folder / "backbone"))


def _export(checkpoint: Path) -> Path:
    bundle = checkpoint.parent / "bundle"
    export_checkpoint(checkpoint, bundle, parity_users=8)
    return bundle


@pytest.fixture(scope="session")
def untrained_bundle(untrained: Path) -> Path:
    return _export(untrained)


@pytest.fixture(scope="session")
def trained_bundle(trained: Path) -> Path:
    return _export(trained)


@pytest.fixture(scope="session")
def gated_bundle(gated: Path) -> Path:
    return _export(gated)


@pytest.fixture
def checkpoint(untrained: Path) -> Checkpoint:
    """A fresh copy in memory, to be spoilt."""
    return load_checkpoint(untrained)
