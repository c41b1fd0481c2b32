"""Students: how they are cut out of a teacher, what they learn from it, and that a training of one can be resumed."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
import typer
from typer.testing import CliRunner

from podx.errors import ConfigError, DataError
from podx.text.templates import Task
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.cli.distill import distill
from podx_train.cli.train import train
from podx_train.data.dataset import Dataset
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.model.presets import parse_layers
from podx_train.model.student import StudentShape, cut_out, kept_layers, kept_units
from podx_train.options import RECIPES, Source, TrainOptions
from podx_train.training.clock import Signal
from podx_train.training.distill import Distillation, DistillOptions, distill_model, divergences
from podx_train.training.loop import Trainer
from podx_train.training.train import train_model
from tests.train.test_one_pass import CODES, batch_of, trie_of
from tests.train.test_one_pass import make_model as one_pass_model

WEIGHT, TEMPERATURE = 0.3, 2.5
ITEM_TOKENS = [1, 5, 9, 12, 30]


@pytest.fixture(scope="module")
def teacher(world: Dataset, quick: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with two layers in the encoder and five in the decoder, after an epoch."""
    options = dataclasses.replace(quick, epochs=1, lr=5e-3)
    folder = tmp_path_factory.mktemp("teacher") / "out"
    train_model(world, folder, options, Source(layers=(2, 5)))
    return folder


def a_batch() -> tuple[ModelBatch, torch.Tensor]:
    """A record of each task; targets of one to three tokens of :data:`ITEM_TOKENS`."""
    ids = torch.tensor([[7, 8, 1], [9, 10, 11], [12, 1, 0]])
    mask = (ids != 0).long()
    labels = torch.tensor([[5, 9, 1], [12, 1, IGNORED_LABEL], [1, IGNORED_LABEL, IGNORED_LABEL]])
    return ModelBatch(ids, mask, mask, torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.long)), labels


def options_of(weight: float, temperature: float = TEMPERATURE) -> DistillOptions:
    return DistillOptions(StudentShape(), weight, temperature)


def other(model: PodT5) -> PodT5:
    """The same model with every weight moved."""
    moved = copy.deepcopy(model)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return moved


@torch.no_grad()
def test_loss_equals_a_hand_computation(make_model: Callable[..., PodT5]) -> None:
    student = make_model()
    taught = other(student)
    batch, labels = a_batch()
    loss = Distillation(student, taught, torch.tensor(ITEM_TOKENS), options_of(WEIGHT))(batch, labels)
    own, wanted = student.logits(batch, labels).double(), taught.logits(batch, labels).double()
    total = 0.0
    for row, task in enumerate(student.config.tasks):
        places = [place for place in range(3) if labels[row, place] != IGNORED_LABEL]
        columns = range(own.shape[-1]) if task is Task.EXPLANATION else ITEM_TOKENS
        of_record = 0.0
        for place in places:
            log_q = own[row, place].log_softmax(-1)
            p = (wanted[row, place, list(columns)] / TEMPERATURE).softmax(-1)
            q = (own[row, place, list(columns)] / TEMPERATURE).softmax(-1)
            divergence = float((p * (p.log() - q.log())).sum())
            of_record += -(1 - WEIGHT) * float(log_q[labels[row, place]])
            of_record += WEIGHT * TEMPERATURE**2 * divergence
        total += of_record / len(places)
    assert float(loss) == pytest.approx(total / 3, rel=1e-4)
    weights = torch.tensor([0.5, 0.25, 0.0])
    parts = [
        float(
            Distillation(student, taught, torch.tensor(ITEM_TOKENS), options_of(WEIGHT))(
                batch.map(lambda tensor, row=i: tensor[row : row + 1]), labels[i : i + 1]
            )
        )
        for i in range(3)
    ]
    weighted = Distillation(student, taught, torch.tensor(ITEM_TOKENS), options_of(WEIGHT))(batch, labels, weights)
    assert float(weighted) == pytest.approx(0.5 * parts[0] + 0.25 * parts[1], rel=1e-4)


def test_gradients_reach_the_student_alone(make_model: Callable[..., PodT5]) -> None:
    student = make_model()
    taught = other(student)
    objective = Distillation(student, taught, torch.tensor(ITEM_TOKENS), options_of(1.0))
    assert {id(p) for p in objective.parameters()} == {id(p) for p in student.parameters()}
    objective.train()
    assert not taught.training
    batch, labels = a_batch()
    objective(batch, labels).backward()
    assert all(parameter.grad is None for parameter in taught.parameters())
    assert float(student.prompts.grad.abs().sum()) > 0


def test_without_weight_it_is_plain_training(make_model: Callable[..., PodT5]) -> None:
    student = make_model()
    batch, labels = a_batch()
    objective = Distillation(student, other(student), torch.tensor(ITEM_TOKENS), options_of(0.0))
    assert torch.equal(objective(batch, labels), student(batch, labels))


def test_a_student_of_full_depth_starts_as_the_teacher(teacher: Path, world: Dataset) -> None:
    model = load_checkpoint(teacher).model
    student = cut_out(model, StudentShape().config(model.config))
    own, wanted = dict(student.named_parameters()), dict(model.named_parameters())
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[name], wanted[name]) for name in own)
    batch, labels = a_batch()
    with torch.no_grad():
        loss = Distillation(student.eval(), model, torch.tensor(ITEM_TOKENS), options_of(1.0))(batch, labels)
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_divergence_is_never_negative_and_counts_labelled_positions() -> None:
    torch.manual_seed(0)
    own, wanted = torch.randn(2, 4, 3, 6)
    labels = torch.tensor([[1, IGNORED_LABEL, IGNORED_LABEL]] * 4)
    found = divergences(own, wanted, labels, 1.0)
    assert bool((found > 0).all())
    wanted[:, 1:] += torch.randn(4, 2, 6)  # unlabelled positions
    assert torch.equal(divergences(own, wanted, labels, 1.0), found)


def test_layers_are_evenly_spaced() -> None:
    assert kept_layers(6, 2) == [0, 5]
    assert kept_layers(6, 3) == [0, 2, 5]
    assert kept_layers(12, 4) == [0, 4, 7, 11]
    assert kept_layers(6, 1) == [0]
    assert kept_layers(4, 4) == [0, 1, 2, 3]


def test_the_largest_units_stay() -> None:
    inward = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [6.0, 8.0]])
    outward = torch.tensor([[1.0, 9.0, 3.0, 0.1], [0.0, 0.0, 4.0, 0.0]])
    # norms in: 5, 1, 2, 10; out: 1, 9, 5, 0.1; products: 5, 9, 10, 1
    assert kept_units({"wi": inward, "wo": outward}, 2).tolist() == [1, 2]
    gate = torch.tensor([[0.0, 3.0], [0.1, 0.0], [1.0, 0.0], [1.0, 0.0]])  # products: 15, 0.9, 10, 1
    assert kept_units({"wi_0": inward, "wi_1": gate, "wo": outward}, 2).tolist() == [0, 2]


def test_cut_out_keeps_layers_units_and_tables(teacher: Path) -> None:
    model = load_checkpoint(teacher).model
    student = cut_out(model, StudentShape(decoder_layers=2, encoder_layers=1, d_ff=100).config(model.config))
    own, whole = student.backbone, model.backbone
    assert (len(own.encoder.block), len(own.decoder.block)) == (1, 2)
    for layer, origin in ((0, 0), (1, 4)):
        mine, theirs = own.decoder.block[layer], whole.decoder.block[origin]
        assert torch.equal(mine.layer[1].EncDecAttention.k.weight, theirs.layer[1].EncDecAttention.k.weight)
        inner, outer = mine.layer[2].DenseReluDense, theirs.layer[2].DenseReluDense
        units = kept_units({"wi": outer.wi.weight.detach(), "wo": outer.wo.weight.detach()}, 100)
        assert torch.equal(inner.wi.weight, outer.wi.weight[units])
        assert torch.equal(inner.wo.weight, outer.wo.weight[:, units])
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(own.decoder.get_parameter(bias), whole.decoder.get_parameter(bias))
    for name in ("prompts", "whole_word.weight", "backbone.shared.weight"):
        assert torch.equal(student.get_parameter(name), model.get_parameter(name))


@pytest.mark.parametrize(
    ("shape", "flag"),
    [
        (StudentShape(decoder_layers=6), "--decoder-layers must lie between 1 and the teacher's 5"),
        (StudentShape(decoder_layers=0), "--decoder-layers"),
        (StudentShape(encoder_layers=3), "--encoder-layers"),
        (StudentShape(d_ff=1000), "--d-ff"),
    ],
)
def test_a_student_is_not_larger(teacher: Path, world: Dataset, tmp_path: Path, shape: StudentShape, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        distill_model(teacher, world, tmp_path / "out", DistillOptions(shape))
    assert not (tmp_path / "out").exists()


def test_only_the_dataset_of_the_teacher(teacher: Path, world: Dataset, tmp_path: Path) -> None:
    changed = np.array(world.items)
    changed[[0, 1]] = changed[[1, 0]]
    with pytest.raises(DataError, match="not the one that the teacher"):
        distill_model(teacher, dataclasses.replace(world, items=changed), tmp_path / "out", options_of(0.5))
    assert not (tmp_path / "out").exists()


def test_faulty_options() -> None:
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="--weight"):
            options_of(weight)
    with pytest.raises(ConfigError, match="--temperature"):
        options_of(0.5, 0.0)
    for text in ("6", "0,2", "a,b", "1,2,3"):
        with pytest.raises(ConfigError, match="--layers"):
            parse_layers(text)
    with pytest.raises(ConfigError, match="--backbone and --layers"):
        Source(backbone="x", layers=(1, 1))


def test_student_is_an_ordinary_checkpoint(teacher: Path, world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    before = load_checkpoint(teacher)
    distilling = DistillOptions(StudentShape(decoder_layers=1, d_ff=64), WEIGHT, TEMPERATURE)
    result = distill_model(teacher, world, tmp_path / "out", distilling, quick)
    assert result.epochs == 2
    student = load_checkpoint(tmp_path / "out")
    assert student.config.backbone["num_decoder_layers"] == 1
    assert student.config.backbone["d_ff"] == 64
    assert (student.config.tasks, student.config.prompts) == (before.config.tasks, before.config.prompts)
    assert student.tokenizer.path.read_bytes() == before.tokenizer.path.read_bytes()
    source = student.training["source"]
    assert (source["weight"], source["temperature"]) == (WEIGHT, TEMPERATURE)
    assert source["teacher"]["decoder_layers"] == 5
    assert source["teacher"]["parameters"] == before.model.parameter_counts()["all"]
    assert student.model.parameter_counts()["all"] < source["teacher"]["parameters"]
    assert len(source["teacher"]["weights_sha256"]) == 64
    losses = [entry["criterion"] for entry in result.curve]
    assert losses[1] < losses[0]


def test_from_scratch_starts_from_random_weights(
    teacher: Path, world: Dataset, quick: TrainOptions, tmp_path: Path
) -> None:
    options = dataclasses.replace(quick, epochs=0)
    for name, scratch in (("cut", False), ("scratch", True)):
        distilling = DistillOptions(StudentShape(decoder_layers=1), from_scratch=scratch)
        distill_model(teacher, world, tmp_path / name, distilling, options)
    whole = load_checkpoint(teacher).model.backbone.shared.weight
    assert torch.equal(load_checkpoint(tmp_path / "cut").model.backbone.shared.weight, whole)
    assert not torch.equal(load_checkpoint(tmp_path / "scratch").model.backbone.shared.weight, whole)


def test_resume_to_the_bit(
    teacher: Path, world: Dataset, quick: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distilling = DistillOptions(StudentShape(decoder_layers=2))
    distill_model(teacher, world, tmp_path / "whole", distilling, quick)
    updates = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_signal", lambda self: Signal.STOP if next(updates) == 4 else Signal.GO_ON)
        assert distill_model(teacher, world, tmp_path / "parts", distilling, quick).out_of_time
    for other_way in (
        DistillOptions(StudentShape(decoder_layers=2), weight=0.4),
        DistillOptions(StudentShape(decoder_layers=1)),
    ):
        with pytest.raises(ConfigError, match="the teacher, the student's shape, --weight"):
            distill_model(teacher, world, tmp_path / "parts", other_way, quick, resume=True)
    distill_model(teacher, world, tmp_path / "parts", distilling, quick, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    for (name, first), second in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(first, second), name
    for first, second in zip(whole.training["curve"], parts.training["curve"], strict=True):
        assert (first["train_loss"], first["criterion"]) == (second["train_loss"], second["criterion"])


def test_the_teacher_of_a_resumed_training_is_the_same(
    teacher: Path, world: Dataset, quick: TrainOptions, tmp_path: Path
) -> None:
    train_model(world, tmp_path / "other", dataclasses.replace(quick, epochs=0, seed=5), Source(layers=(2, 5)))
    distilling = DistillOptions(StudentShape(decoder_layers=2))
    distill_model(teacher, world, tmp_path / "out", distilling, dataclasses.replace(quick, epochs=1))
    with pytest.raises(ConfigError, match="the teacher"):
        distill_model(tmp_path / "other", world, tmp_path / "out", distilling, quick, resume=True)


def test_a_teacher_with_vectors_of_users(world: Dataset, quick: TrainOptions, tmp_path: Path) -> None:
    """PeaPOD: the frozen arrays come along, and the student may be resumed."""
    options = dataclasses.replace(quick, epochs=1, user_prompts=2)
    train_model(world, tmp_path / "teacher", options)
    distilling = DistillOptions(StudentShape(decoder_layers=1))
    one = dataclasses.replace(quick, epochs=1)
    distill_model(tmp_path / "teacher", world, tmp_path / "out", distilling, one)
    distill_model(tmp_path / "teacher", world, tmp_path / "out", distilling, quick, resume=True)
    first, second = (load_checkpoint(tmp_path / name).model.user_prompts for name in ("teacher", "out"))
    assert first is not None and second is not None
    assert torch.equal(first.embeddings, second.embeddings)
    assert torch.equal(first.neighbours, second.neighbours)


@pytest.mark.parametrize("kind", CODES)
def test_one_pass_loss_equals_a_hand_computation(kind: str) -> None:
    codes = CODES[kind]
    student = one_pass_model(codes)
    taught = other(student)
    taught.read_catalog(trie_of(codes))
    batch = batch_of(codes, [[3, 1], [2]], [[0, 5, 2], [4, 0]])
    with torch.no_grad():
        loss = Distillation(student, taught, torch.tensor([0]), options_of(WEIGHT))(batch, torch.zeros(2, 1))
        total = torch.tensor(0.0, dtype=torch.float64)
        for history, item in (([3], 5), ([3, 1], 2), ([], 4)):
            total += (1 - WEIGHT) * student.position_losses(one_target(codes, history, item)).double().sum()
            states, wanted = (m.position_states(one_target(codes, history, item))[0][0] for m in (student, taught))
            for level, token in enumerate(codes[item - 1]):
                before = codes[item - 1][:level]
                siblings = sorted({c[level] for c in codes if len(c) > level and c[:level] == before})
                assert token in siblings
                own, target = (
                    functional.log_softmax((m.backbone.lm_head.weight[siblings] @ s[level]).double() / TEMPERATURE, -1)
                    for m, s in ((student, states), (taught, wanted))
                )
                total += WEIGHT * TEMPERATURE**2 * (target.exp() * (target - own)).sum()
    assert loss.item() == pytest.approx(total.item() / 2, rel=1e-4)


def one_target(codes: list[list[int]], history: list[int], item: int) -> ModelBatch:
    return batch_of(codes, [history], [[0] * len(history) + [item]])


def test_a_one_pass_student_learns(world: Dataset, tmp_path: Path) -> None:
    options = TrainOptions(**{**RECIPES["fast"], "epochs": 2, "batch_size": 16, "lr": 5e-3, "validation_users": None})
    train_model(world, tmp_path / "teacher", options, Source(preset="micro", pieces=300, layers=(1, 2)))
    distilling = DistillOptions(StudentShape(decoder_layers=1), WEIGHT)
    result = distill_model(tmp_path / "teacher", world, tmp_path / "out", distilling, options)
    first, second = (entry["validation_ranking"]["ndcg_10"] for entry in result.curve)
    assert second > first
    student = load_checkpoint(tmp_path / "out")
    assert student.config.one_pass and student.config.backbone["num_decoder_layers"] == 1


def test_commands(world: Dataset, tmp_path: Path) -> None:
    world.save(tmp_path / "data")
    app = typer.Typer()
    app.command("train")(train)
    app.command("distill")(distill)
    usual = ["--epochs", "1", "--batch-size", "16", "--device", "cpu"]

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    data, out = tmp_path / "data", tmp_path / "teacher"
    fast = tmp_path / "fast"
    assert run("train", data, "--out", fast, "--layers", "1,2", *usual).exit_code == 0
    of_fast = run("distill", fast, "--data", data, "--out", tmp_path / "of-fast", "--decoder-layers", 1, *usual)
    assert of_fast.exit_code == 0, of_fast.output
    assert load_checkpoint(tmp_path / "of-fast").training["options"]["beta2"] == RECIPES["fast"]["beta2"]
    train_as = ["--recipe", "paper", *usual]
    result = run("train", data, "--out", out, "--layers", "1,3", *train_as)
    assert result.exit_code == 0, result.output
    assert load_checkpoint(out).config.backbone["num_decoder_layers"] == 3
    assert isinstance(run("train", data, "--out", out, "--resume", *train_as).exception, ConfigError)  # other layers
    student = tmp_path / "student"
    result = run("distill", out, "--data", data, "--out", student, "--decoder-layers", 2, "--weight", 0.7, *usual)
    assert result.exit_code == 0, result.output
    assert "epoch 1 is best" in result.output
    training = json.loads((student / "training.json").read_text())
    assert training["source"]["weight"] == 0.7
    assert training["source"]["student"]["decoder_layers"] == 2
