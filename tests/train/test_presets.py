from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from podx.errors import CheckpointError, ConfigError
from podx.text.templates import ALL_TASKS
from podx.text.tokenizer import Tokenizer
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import backbone_tokenizer, load_backbone, preset_config, vocabulary_rows
from podx_train.options import Source, TrainOptions
from podx_train.training.start import new_model
from podx_train.training.train import train_model


@pytest.mark.parametrize(("preset", "least", "most"), [("tiny", 2e5, 4e5), ("mini", 1e6, 2e6), ("t5-small", 4e7, 5e7)])
def test_preset_sizes(preset: str, least: float, most: float, tokenizer, world: Dataset) -> None:
    with torch.device("meta"):
        model = new_model(Source(preset=preset), TrainOptions(), ALL_TASKS, tokenizer, world)
    assert least < model.parameter_counts()["beyond_embedding"] < most
    assert model.config.tied_output


def test_t5_small_has_the_true_shape(shared_data: Path, world: Dataset) -> None:
    tokenizer = Tokenizer(shared_data / "t5" / "spiece.model")
    config = preset_config("t5-small", tokenizer)
    shape = (config.vocab_size, config.d_model, config.d_ff, config.num_layers, config.num_decoder_layers)
    assert shape == (32_128, 512, 2_048, 6, 6)
    assert (config.num_heads, config.d_kv, config.dense_act_fn, config.is_gated_act) == (8, 64, "relu", False)
    with torch.device("meta"):
        weights = sum(p.numel() for p in PodT5(new_model_config(tokenizer, world)).backbone.parameters())
    assert weights == 60_506_624  # as published for t5-small


def new_model_config(tokenizer: Tokenizer, world: Dataset):
    return new_model(Source(preset="t5-small"), TrainOptions(), ALL_TASKS, tokenizer, world).config


def test_rows_follow_the_tokenizer(tokenizer) -> None:
    rows = vocabulary_rows(tokenizer)
    assert tokenizer.vocab_size <= rows < tokenizer.vocab_size + 8
    assert rows % 8 == 0


def test_equal_seeds_give_equal_weights(tokenizer, world: Dataset) -> None:
    first, again, other = (
        new_model(Source(), TrainOptions(seed=seed), ALL_TASKS, tokenizer, world).prompts for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gated_untied_backbone_trains_and_comes_back(backbone_folder: Path, world, quick, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    options = dataclasses.replace(quick, epochs=1)
    train_model(world, out, options, Source(backbone=str(backbone_folder)))
    loaded = load_checkpoint(out)
    assert not loaded.config.tied_output
    backbone = loaded.model.backbone
    assert backbone.lm_head.weight is not backbone.shared.weight
    assert not torch.equal(backbone.lm_head.weight, backbone.shared.weight)
    assert not backbone.config.scale_decoder_outputs
    assert backbone.config.is_gated_act
    start = load_backbone(str(backbone_folder))
    assert not torch.equal(start.lm_head.weight, backbone.lm_head.weight)
    assert torch.allclose(start.lm_head.weight, backbone.lm_head.weight, atol=0.05)  # trained on from the folder's


def test_untrained_checkpoint_keeps_the_backbones_weights(backbone_folder: Path, world, quick, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    train_model(world, out, dataclasses.replace(quick, epochs=0), Source(backbone=str(backbone_folder)))
    start, kept = load_backbone(str(backbone_folder)), load_checkpoint(out).model.backbone
    for (name, a), (_, b) in zip(start.named_parameters(), kept.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_backbone_tokenizer(backbone_folder: Path) -> None:
    assert backbone_tokenizer(str(backbone_folder)) == backbone_folder / "spiece.model"
    (backbone_folder / "spiece.model").unlink()
    with pytest.raises(ConfigError, match="--tokenizer FILE"):
        backbone_tokenizer(str(backbone_folder))


def test_backbone_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_backbone(str(tmp_path / "nowhere"))


def test_backbone_with_damaged_or_missing_weights(backbone_folder: Path) -> None:
    weights = backbone_folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"undamaged model\.safetensors"):
        load_backbone(str(backbone_folder))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"undamaged model\.safetensors"):
        load_backbone(str(backbone_folder))


def test_backbone_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match="podx needs a T5"):
        load_backbone(str(tmp_path))


def test_tokenizer_too_large_for_the_backbone(backbone_folder: Path, world, quick, tmp_path: Path) -> None:
    from podx_train.model.tokenizer_training import train_tokenizer

    large = tmp_path / "large.model"
    large.write_bytes(train_tokenizer(world, 600))
    with pytest.raises(ConfigError, match="belongs to the backbone"):
        train_model(world, tmp_path / "out", quick, Source(backbone=str(backbone_folder), tokenizer=str(large)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"preset": "tiny", "backbone": "x"}, "--preset and --backbone conflict"),
        ({"backbone": "x", "tokenizer": "train"}, "--backbone and --tokenizer train conflict"),
        ({"preset": "huge"}, "unknown --preset"),
    ],
)
def test_conflicting_sources(source: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Source(**source)
