"""LoRA and prompt-only training: what is trained, what stays, and what comes out of a checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from podx.errors import CheckpointError, ConfigError, DependencyError
from podx.text.templates import Task
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.eager.generation import EagerRecommender, SearchOptions
from podx_train.model.adapters import LORA_TARGETS, add_adapter, freeze, merge_adapter, trained_groups
from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.model.presets import grow_vocabulary, load_backbone
from podx_train.options import Source, TrainOptions
from podx_train.training.clock import Signal
from podx_train.training.loop import Trainer
from podx_train.training.start import require_usable
from podx_train.training.train import train_model

TABLES = {"prompts", "whole_word.weight"}
EMBEDDING = "backbone.shared.weight"
TRAINER = "trainer.safetensors"


@pytest.fixture
def options() -> TrainOptions:
    return TrainOptions(epochs=1, max_updates=6, batch_size=16, device="cpu", lr=1e-2, lora_rank=3, weight_decay=0.1)


@pytest.fixture(scope="module")
def coded(world: Dataset) -> Dataset:
    """Items written as two codes."""
    return dataclasses.replace(world, item_codes=tuple((f"<a_{n // 12}>", f"<b_{n % 12}>") for n in range(130)))


def with_random_products(model: PodT5) -> PodT5:
    """LoRA matrices that are not zero, as after training."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3)
    return model


def an_input() -> tuple[ModelBatch, Tensor]:
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 90, (2, 9), generator=random)
    batch = ModelBatch(ids, torch.zeros_like(ids), torch.ones_like(ids), torch.tensor([0, 1]))
    return batch, torch.randint(3, 90, (2, 4), generator=random)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def start_and_end(world: Dataset, folder: Path, options: TrainOptions, source: Source) -> tuple[dict, dict]:
    """Published weights before and after a training."""
    train_model(world, folder / "start", dataclasses.replace(options, epochs=0), source)
    train_model(world, folder / "end", options, source)
    return tensors(folder / "start"), tensors(folder / "end")


def changed(start: dict[str, Tensor], end: dict[str, Tensor]) -> set[str]:
    assert start.keys() == end.keys()
    return {name for name, tensor in start.items() if not torch.equal(tensor, end[name])}


def test_lora_trains_its_matrices_and_the_new_tables(
    world: Dataset, backbone_folder: Path, options: TrainOptions, tmp_path: Path
) -> None:
    source = Source(backbone=str(backbone_folder))
    start, end = start_and_end(world, tmp_path, dataclasses.replace(options, adapter="lora"), source)
    lora = {name for name in start if ".lora_" in name}
    assert changed(start, end) == TABLES | lora
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in lora} == set(LORA_TARGETS) - {"wi"}  # it is gated
    # one layer of two encoder, two of three decoder sublayers: four matrices each attention, three each gated layer
    assert len(lora) == 2 * ((4 + 3) + 2 * (4 + 4 + 3))
    counts = load_checkpoint(tmp_path / "end").training["parameters"]
    assert counts["trained"] == sum(end[name].numel() for name in TABLES | lora) < counts["all"]
    assert counts["all"] == sum(tensor.numel() for tensor in end.values())


def test_prompt_only_leaves_the_backbone(
    world: Dataset, backbone_folder: Path, options: TrainOptions, tmp_path: Path
) -> None:
    source = Source(backbone=str(backbone_folder))
    start, end = start_and_end(world, tmp_path, dataclasses.replace(options, adapter="prompt-only"), source)
    assert changed(start, end) == TABLES
    loaded = load_checkpoint(tmp_path / "end")
    assert loaded.training["parameters"]["trained"] == sum(end[name].numel() for name in TABLES)
    kept = load_file(backbone_folder / "model.safetensors")["shared.weight"]
    assert torch.equal(loaded.model.backbone.shared.weight, kept)


@pytest.mark.parametrize("adapter", ["lora", "prompt-only"])
def test_rows_of_item_codes_are_trained_and_no_others(
    coded: Dataset, backbone_folder: Path, options: TrainOptions, tmp_path: Path, adapter: str
) -> None:
    source = Source(backbone=str(backbone_folder))
    start, end = start_and_end(coded, tmp_path, dataclasses.replace(options, adapter=adapter), source)
    loaded = load_checkpoint(tmp_path / "end")
    rows = np.unique(loaded.catalog().tokens)
    assert len(rows) == 11 + 12
    output = "backbone.lm_head.weight"  # of its own in this backbone
    moved = {name for name in changed(start, end) if ".lora_" not in name}
    assert moved == TABLES | {EMBEDDING, output}
    for name in (EMBEDDING, output):
        different = (start[name] != end[name]).any(dim=1).nonzero().flatten().tolist()
        assert different == rows.tolist()  # to the bit, although weight decay is on
    trained = sum(end[name].numel() for name in TABLES | {n for n in end if ".lora_" in n})
    assert loaded.training["parameters"]["trained"] == trained + 2 * len(rows) * end[EMBEDDING].shape[1]


def test_merged_answers_as_unmerged(make_model) -> None:
    plain = make_model()
    model = with_random_products(add_adapter(make_model(adapter="lora", lora_rank=2))).eval()
    batch, labels = an_input()
    with torch.no_grad():
        unmerged = model.logits(batch, labels)
        merged_model = merge_adapter(copy.deepcopy(model))
        merged = merged_model.logits(batch, labels)
        assert (unmerged - merged).abs().max() < 1e-4
        assert (unmerged - plain.logits(batch, labels)).abs().max() > 1e-2  # the products matter
    assert merged_model.config.adapter == "none"
    assert [n for n, _ in merged_model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert all(type(m) is nn.Linear for m in merged_model.modules() if isinstance(m, nn.Linear))
    assert all(parameter.requires_grad for parameter in merged_model.parameters())


def test_lora_begins_as_the_backbone(make_model) -> None:
    batch, labels = an_input()
    with torch.no_grad():
        expected = make_model().logits(batch, labels)
        torch.testing.assert_close(add_adapter(make_model(adapter="lora")).logits(batch, labels), expected)


def test_a_loaded_checkpoint_generates_with_what_lora_learnt(
    world: Dataset, dropout_backbone: Path, options: TrainOptions, tmp_path: Path
) -> None:
    options = dataclasses.replace(options, adapter="lora")
    train_model(world, tmp_path / "c", options, Source(backbone=str(dropout_backbone)))
    loaded = load_checkpoint(tmp_path / "c")
    assert (loaded.config.adapter, loaded.config.lora_rank) == ("lora", 3)
    stored = tensors(tmp_path / "c")
    layer = "backbone.decoder.block.1.layer.2.DenseReluDense.wo"
    product = stored[f"{layer}.lora_B.default.weight"] @ stored[f"{layer}.lora_A.default.weight"]
    expected = stored[f"{layer}.base_layer.weight"] + 2 * product
    torch.testing.assert_close(dict(loaded.model.named_parameters())[f"{layer}.weight"].data, expected)
    encoder = loaded.encoder()
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, 2, [3, 6, 9])])
    eager = EagerRecommender(loaded.model, loaded.tokenizer, loaded.catalog())
    found = eager.recommend(batch, Task.SEQUENTIAL, SearchOptions(num_beams=5, num_return=4))
    assert len(set(found.items[0].tolist())) == 4 and 0 not in found.items


@pytest.mark.parametrize("adapter", ["lora", "prompt-only"])
def test_a_resumed_training_ends_alike(
    coded: Dataset,
    dropout_backbone: Path,
    options: TrainOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapter: str,
) -> None:
    options = dataclasses.replace(options, adapter=adapter, epochs=2, max_updates=None, batch_size=48)
    source = Source(backbone=str(dropout_backbone))
    train_model(coded, tmp_path / "whole", options, source)
    with monkeypatch.context() as patch:
        signals = iter([Signal.GO_ON, Signal.GO_ON, Signal.STOP])
        patch.setattr(Trainer, "_signal", lambda self: next(signals))
        assert train_model(coded, tmp_path / "parts", options, source).out_of_time
    train_model(coded, tmp_path / "parts", options, source, resume=True)
    whole, parts = (load_file(tmp_path / name / TRAINER) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, parts[name])] == []
    with pytest.raises(ConfigError, match="--lora-rank was 3, is 4"):
        train_model(coded, tmp_path / "parts", dataclasses.replace(options, lora_rank=4), source, resume=True)


def test_the_optimiser_sees_only_what_is_trained(make_model, coded: Dataset, tokenizer) -> None:
    model = make_model(adapter="prompt-only", prompts=2)
    freeze(model, dataclasses.replace(coded, item_codes=None), tokenizer)
    everything = {"params": list(model.parameters()), "scale": 1.0}
    groups = trained_groups(model, [everything, {"params": [model.backbone.shared.weight], "scale": 2.0}])
    assert [len(group["params"]) for group in groups] == [2]
    assert {id(p) for p in groups[0]["params"]} == {id(model.prompts), id(model.whole_word.weight)}
    free = make_model()
    freeze(free, coded, tokenizer)
    assert len(trained_groups(free, [{"params": list(free.parameters())}])[0]["params"]) == len(list(free.parameters()))


def test_what_cannot_work_is_refused_before_anything_is_written(
    world: Dataset, backbone_folder: Path, tmp_path: Path
) -> None:
    for adapter in ("lora", "prompt-only"):
        with pytest.raises(ConfigError, match="give --backbone"):
            train_model(world, tmp_path / "out", TrainOptions(adapter=adapter, device="cpu"))
    with pytest.raises(ConfigError, match="give --prompts"):
        options = TrainOptions(adapter="prompt-only", prompts=0, device="cpu")
        train_model(world, tmp_path / "out", options, Source(backbone=str(backbone_folder)))
    with pytest.raises(ConfigError, match="unknown --adapter"):
        TrainOptions(adapter="glue")
    assert not (tmp_path / "out").exists()


def test_without_peft_the_error_says_what_to_install(
    make_model, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DependencyError, match=r"pip install 'podx\[peft\]'"):
        require_usable(TrainOptions(adapter="lora"), Source(backbone=str(backbone_folder)))
    require_usable(TrainOptions(adapter="prompt-only"), Source(backbone=str(backbone_folder)))
    with pytest.raises(DependencyError, match=r"pip install 'podx\[peft\]'"):
        add_adapter(make_model(adapter="lora"))


def test_a_damaged_configuration_is_named(
    world: Dataset, backbone_folder: Path, options: TrainOptions, tmp_path: Path
) -> None:
    source = Source(backbone=str(backbone_folder))
    train_model(world, tmp_path / "c", dataclasses.replace(options, adapter="lora", epochs=0), source)
    config = tmp_path / "c" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"adapter": "lora"', '"adapter": "glue"'))
    with pytest.raises(CheckpointError, match="unknown adapter 'glue'"):
        load_checkpoint(tmp_path / "c")
    config.write_text(text.replace('"adapter": "lora"', '"adapter": "none"'))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(tmp_path / "c")


def test_new_rows_leave_an_output_layer_of_its_own(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    first, last = (table.weight.detach().clone() for table in (backbone.shared, backbone.lm_head))
    rows = len(first)
    torch.manual_seed(1)
    grow_vocabulary(backbone, rows + 8)
    assert backbone.config.vocab_size == len(backbone.shared.weight) == len(backbone.lm_head.weight) == rows + 8
    assert torch.equal(backbone.shared.weight[:rows], first)
    assert torch.equal(backbone.lm_head.weight[:rows], last)
    assert not torch.equal(backbone.lm_head.weight[rows:], backbone.shared.weight[rows:])
    assert 0.3 < backbone.lm_head.weight[rows:].std() / last.std() < 3
    grow_vocabulary(backbone, 5)  # never fewer
    assert len(backbone.lm_head.weight) == rows + 8
