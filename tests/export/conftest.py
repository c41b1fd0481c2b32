"""Checkpoints and bundles made once for all export tests: untrained and trained, plain and gated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from podx.bundle.manifest import INT8
from podx_export.pipeline import export_checkpoint
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.conftest import made_once

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


UNTRAINED = TrainOptions(epochs=0, prompts=2, device="cpu")
FEW_UPDATES = TrainOptions(
    epochs=1, max_updates=24, batch_size=16, validation_users=16, lr=5e-3, prompts=2, device="cpu"
)
"""Enough for the weights to be far from what they were."""


@pytest.fixture(scope="session")
def untrained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of random weights."""

    def make(folder: Path) -> None:
        train_model(world, folder / "checkpoint", UNTRAINED, Source(pieces=PIECES))

    return made_once(tmp_path_factory, "untrained", make) / "checkpoint"


@pytest.fixture(scope="session")
def trained(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a few updates."""

    def make(folder: Path) -> None:
        train_model(world, folder / "checkpoint", FEW_UPDATES, Source(pieces=PIECES))

    return made_once(tmp_path_factory, "trained", make) / "checkpoint"


@pytest.fixture(scope="session")
def gated(world: Dataset, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the shape of T5 v1.1: gated activation, an output layer of its own; its backbone beside it."""

    def make(folder: Path) -> None:
        _write_gated_backbone(untrained, folder / "backbone")
        train_model(world, folder / "checkpoint", UNTRAINED, Source(pieces=PIECES, backbone=str(folder / "backbone")))

    return made_once(tmp_path_factory, "gated", make) / "checkpoint"


def _write_gated_backbone(checkpoint: Path, folder: Path) -> None:
    """A T5 v1.1 of random weights with the checkpoint's tokenizer."""
    tokenizer = load_checkpoint(checkpoint).tokenizer
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
    backbone.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tokenizer.path.read_bytes())


def _export(factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    def make(folder: Path) -> None:
        export_checkpoint(checkpoint, folder / "bundle", parity_users=8)

    return made_once(factory, f"{checkpoint.parent.name}-bundle", make) / "bundle"


@pytest.fixture(scope="session")
def untrained_bundle(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory, untrained)


@pytest.fixture(scope="session")
def trained_bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory, trained)


@pytest.fixture(scope="session")
def gated_bundle(gated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory, gated)


@pytest.fixture
def checkpoint(untrained: Path) -> Checkpoint:
    """A fresh copy in memory, to be spoilt."""
    return load_checkpoint(untrained)


@pytest.fixture(scope="session")
def rounded_bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model in int8."""

    def make(folder: Path) -> None:
        export_checkpoint(trained, folder / "bundle", precision=INT8, parity_users=2)

    return made_once(tmp_path_factory, "rounded-bundle", make) / "bundle"
