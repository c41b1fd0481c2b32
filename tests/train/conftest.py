"""A small world whose users walk through the catalog in steps of three, and what is trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config

from podx.bundle.catalog import Catalog
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, Task
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.pod_t5 import PodT5
from podx_train.model.tokenizer_training import train_tokenizer
from podx_train.options import TrainOptions
from podx_train.training.journal import Journal
from podx_train.training.loop import TrainResult
from podx_train.training.train import train_model

USERS, ITEMS, LENGTH, STEP = 48, 130, 8, 3
FEW_PIECES = 160  # fewer than the ids, so that items have one to three tokens


def _explanations(items: np.ndarray, users: range) -> list[ExplanationRecord]:
    return [
        ExplanationRecord(user, int(items[(user - 1) * LENGTH]), "a fine piece of work that plays well", "work")
        for user in users
    ]


@pytest.fixture(scope="session")
def world() -> Dataset:
    """48 users with 8 items each out of 130, and explanations."""
    starts = np.random.default_rng(7).integers(0, ITEMS, size=(USERS, 1))
    items = ((starts + STEP * np.arange(LENGTH)) % ITEMS + 1).astype(np.int32).ravel()
    return Dataset(
        items,
        np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        [f"user-{n}" for n in range(USERS)],
        [f"item-{n}" for n in range(ITEMS)],
        explanations={
            "train": _explanations(items, range(1, 31)),
            "val": _explanations(items, range(31, 40)),
            "test": _explanations(items, range(40, 49)),
        },
        scheme="paper",
    )


@pytest.fixture(scope="session")
def silent_world(world: Dataset) -> Dataset:
    """The same without explanations."""
    return dataclasses.replace(world, explanations={"train": [], "val": [], "test": []})


@pytest.fixture(scope="session")
def tokenizer(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    path.write_bytes(train_tokenizer(world, FEW_PIECES))
    return Tokenizer(path)


@pytest.fixture(scope="session")
def catalog(world: Dataset, tokenizer: Tokenizer) -> Catalog:
    return Catalog.create(world.item_ids, tokenizer)


@pytest.fixture(scope="session")
def encoder(tokenizer: Tokenizer) -> InputEncoder:
    return InputEncoder(tokenizer)


@pytest.fixture(scope="session")
def t5_config(tokenizer: Tokenizer) -> T5Config:
    """A T5 so small that every test may have its own."""
    return T5Config(
        vocab_size=tokenizer.vocab_size + 3,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )


@pytest.fixture
def make_model(t5_config: T5Config) -> Callable[..., PodT5]:
    """A PodT5 of random weights, in evaluation mode; keywords go to its PodConfig."""

    def make(tasks: tuple[Task, ...] = ALL_TASKS, seed: int = 0, **options: object) -> PodT5:
        torch.manual_seed(seed)
        return PodT5(PodConfig(backbone=backbone_fields(t5_config), tasks=tasks, **options)).eval()

    return make


@pytest.fixture(autouse=True)
def _draws_only_for_those_who_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the loss takes as long as a small training: only tests with the fixture ``plots`` have it drawn."""
    if "plots" not in request.fixturenames:
        monkeypatch.setattr(Journal, "plot", lambda self, curve: None)


@pytest.fixture
def plots() -> None:
    """Loss curves are drawn in this test."""


@pytest.fixture(scope="session")
def quick() -> TrainOptions:
    return TrainOptions(epochs=2, batch_size=16, device="cpu", prompts=2)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training that is over: its folder, to be read and copied but not changed, and its result."""

    folder: Path
    result: TrainResult

    def tensors(self, name: str = "trainer.safetensors") -> dict[str, torch.Tensor]:
        return load_file(self.folder / name)


@pytest.fixture(scope="session")
def trained(world: Dataset, quick: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The world learnt for two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    return Trained(folder, train_model(world, folder, quick))


@pytest.fixture(scope="session")
def trained_once(world: Dataset, quick: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The world learnt for one epoch."""
    folder = tmp_path_factory.mktemp("trained_once") / "out"
    return Trained(folder, train_model(world, folder, dataclasses.replace(quick, epochs=1)))


@pytest.fixture
def backbone_folder(t5_config: T5Config, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A local T5 v1.1: gated activation, an output layer of its own, its sentencepiece model beside it."""
    from transformers import T5ForConditionalGeneration

    shape = backbone_fields(t5_config) | {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
    config = T5Config(**shape, tie_word_embeddings=False)
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    folder = tmp_path / "v11"
    model.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tokenizer.path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def dropout_backbone(t5_config: T5Config, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local T5 with dropout, which the small presets do without."""
    from transformers import T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("dropout") / "backbone"
    torch.manual_seed(5)
    T5ForConditionalGeneration(T5Config(**backbone_fields(t5_config) | {"dropout_rate": 0.1})).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tokenizer.path.read_bytes())
    return folder
