"""P5, words kept at inference, LoRA and prompt-only training: from a few updates to answers, equal to eager ones."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.errors import ConfigError
from podx.requests.types import RecommendRequest
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, Task
from podx_export.cli.export import export
from podx_export.pipeline import export_checkpoint
from podx_export.verify.parity import largest_difference, measure
from podx_export.verify.samples import draw
from podx_train.batches.templates import with_inference
from podx_train.checkpoint.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, read_tensors, set_model_tensors
from podx_train.data.dataset import Dataset
from podx_train.model.adapters import build_model
from podx_train.model.pod_t5 import PodT5
from podx_train.options import Source, TrainOptions, method_options
from podx_train.training.train import train_model

FEW = {"epochs": 1, "max_updates": 6, "validation_users": 16, "lr": 1e-2, "batch_size": 32, "device": "cpu"}
FIRST_WORDED = {task.value: " ".join(DEFAULT_TEMPLATES[task][1].words) for task in ALL_TASKS}


def answers(bundle: Path, search: str) -> list[str]:
    """What a service answers for one user, by one of the two searches."""
    recommender = podx.load(bundle, device="cpu", search_graph=search)
    found = recommender.recommend(user="user-5", k=4)
    assert len({answer.item for answer in found}) == 4
    best = recommender.rank(user="user-5", candidates=["item-2", "item-9", "item-77"], k=3)
    assert {answer.item for answer in best} == {"item-2", "item-9", "item-77"}
    return [answer.item for answer in found]


def require_good(bundle: Path) -> Bundle:
    """Parity was measured and is exact, and both searches of the runtime give the same lists."""
    loaded = Bundle.load(bundle)
    assert loaded.manifest.parity["equal_lists"] == 1.0
    assert loaded.manifest.parity["max_difference"] < 1e-4
    assert answers(bundle, "steps") == answers(bundle, "one")
    return loaded


def graph(bundle: Path, name: str) -> onnx.GraphProto:
    return onnx.load(str(bundle / name), load_external_data=False).graph


@pytest.fixture(scope="module")
def p5(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p5") / "checkpoint"
    train_model(world, folder, TrainOptions(**FEW, **method_options("p5")), Source(pieces=170))
    return folder


def test_p5_from_training_to_answers(p5: Path, tmp_path: Path) -> None:
    export_checkpoint(p5, tmp_path / "bundle", parity_users=4)
    bundle = require_good(tmp_path / "bundle")
    assert (bundle.manifest.prompts, bundle.manifest.templates) == (0, FIRST_WORDED)
    assert bundle.manifest.provenance["inference"] == "discrete"
    explained = podx.load(tmp_path / "bundle", device="cpu").explain(user="user-5", item="item-9")
    assert explained.score < 0
    for name in (sig.ENCODER_FILE, sig.RECOMMEND_FILE, sig.CUDA_GRAPH_FILE):
        own = graph(tmp_path / "bundle", name)
        assert not {weight.name for weight in own.initializer} & {"prompts"}
        assert {spec.name for spec in sig.encoder_inputs()} <= {value.name for value in own.input}
    checkpoint = load_checkpoint(p5)
    for task in ALL_TASKS:
        written = bundle.input_encoder().encode(task, 3, [7])
        np.testing.assert_array_equal(written.input_ids, checkpoint.encoder().encode(task, 3, [7]).input_ids)
        worded = checkpoint.encoder().encode(task, 3, [7], DEFAULT_TEMPLATES[task][1])
        np.testing.assert_array_equal(written.input_ids, worded.input_ids)


def test_words_may_be_kept_at_export(untrained: Path, untrained_bundle: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    asked = [str(untrained), "--out", str(tmp_path / "worded"), "--parity-users", "4", "--inference"]
    result = CliRunner().invoke(app, [*asked, "loud"])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "worded").exists()
    result = CliRunner().invoke(app, [*asked, "discrete"])
    assert result.exit_code == 0, result.output
    assert "words kept" in result.output
    bundle = require_good(tmp_path / "worded")
    worded, bare = bundle.manifest, Bundle.load(untrained_bundle).manifest
    assert (worded.templates, bare.templates) == (FIRST_WORDED, {})
    assert (worded.provenance["inference"], bare.provenance["inference"]) == ("discrete", "bare")
    assert worded.provenance["training"]["options"]["inference"] == "bare"
    assert worded.prompts == bare.prompts == 2
    changed = {name for name in bare.files if worded.files[name] != bare.files[name]}
    assert changed == {CATALOG_FILE, sig.NUMBERS_FILE}  # words are inputs: all else is the same to the byte
    assert measure(with_inference(load_checkpoint(untrained), "discrete"), bundle, 2).equal_lists == 1.0
    recommenders = [podx.load(folder, device="cpu") for folder in (untrained_bundle, tmp_path / "worded")]
    short, long = (recommender.encode([RecommendRequest("user-5")])[0].text for recommender in recommenders)
    words = sum(not word.startswith("{") for word in FIRST_WORDED["sequential"].split())
    assert len(long) >= len(short) + words
    assert [own.whole_word_ids.max() for own in (short, long)] == [7, 7]  # a user and six items
    scores = [[a.score for a in recommender.recommend(user="user-5", k=4)] for recommender in recommenders]
    assert scores[0] != scores[1]


def test_words_may_be_taken_away_at_export(p5: Path, tmp_path: Path) -> None:
    export_checkpoint(p5, tmp_path / "bare", parity_users=2, inference="bare")
    assert require_good(tmp_path / "bare").manifest.templates == {}


def unmerged(folder: Path, source: Checkpoint) -> PodT5:
    """The model as it was trained, its products beside the matrices."""
    model = build_model(source.config).eval()
    set_model_tensors(model, read_tensors(folder / WEIGHTS_FILE)[0], folder)
    return model


def without_products(model: PodT5) -> PodT5:
    bare = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in bare.named_parameters():
            if ".lora_B" in name:
                parameter.zero_()
    return bare


def test_adapters_from_training_to_answers(world: Dataset, gated: Path, tmp_path: Path) -> None:
    for adapter in ("lora", "prompt-only"):
        checkpoint, folder = tmp_path / f"{adapter}-checkpoint", tmp_path / adapter
        options = TrainOptions(**FEW, prompts=2, adapter=adapter, lora_rank=4)
        train_model(world, checkpoint, options, Source(backbone=str(gated.parent / "backbone")))
        export_checkpoint(checkpoint, folder, parity_users=4)
        bundle, source = require_good(folder), load_checkpoint(checkpoint)
        assert bundle.manifest.provenance["training"]["options"]["adapter"] == adapter
        assert 0 < source.training["parameters"]["trained"] < source.training["parameters"]["all"]
        batch = draw(source, Task.SEQUENTIAL, 4).encode(source)
        model = unmerged(checkpoint, source)
        assert largest_difference(replace(source, model=model), bundle, Task.SEQUENTIAL, batch) < 1e-4
        if adapter == "lora":  # what it learnt is in the graphs
            bare = replace(source, model=without_products(model))
            assert largest_difference(bare, bundle, Task.SEQUENTIAL, batch) > 1e-2
    forms = [[node.op_type for node in graph(tmp_path / a, sig.RECOMMEND_FILE).node] for a in ("lora", "prompt-only")]
    assert forms[0] == forms[1]  # merged: the same graph
