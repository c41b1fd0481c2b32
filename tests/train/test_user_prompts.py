"""Prompt vectors of users: their attention, the model around it, their file, and training with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from podx.errors import CheckpointError, ConfigError, DataError
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx_train.checkpoint.checkpoint import TRAINER_FILE, USERS_FILE, WEIGHTS_FILE, load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.eager.generation import model_batch
from podx_train.model.pod_t5 import PodT5
from podx_train.model.user_prompts import UserPrompts
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from podx_train.users.user_vectors import read_user_vectors

COUNT, WIDTH, NEAR = 9, 8, 3
SHAPE = {"user_prompts": 2, "user_heads": 2, "user_width": WIDTH, "neighbours": NEAR, "user_count": COUNT}


def arrays(absent: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Frozen arrays of nine users with any neighbours; ``absent`` have no embedding."""
    torch.manual_seed(11)
    near = torch.stack([torch.randperm(COUNT)[:NEAR] + 1 for _ in range(COUNT + 1)]).to(torch.int32)
    known = torch.ones(COUNT + 1, dtype=torch.bool)
    known[[0, *absent]] = False
    return {"embeddings": torch.randn(COUNT + 1, WIDTH), "neighbours": near, "known": known}


@pytest.fixture
def filled(make_model: Callable[..., PodT5]) -> Callable[..., PodT5]:
    def make(absent: tuple[int, ...] = (), **options: object) -> PodT5:
        model = make_model(**{**SHAPE, **options})
        assert model.user_prompts is not None
        model.user_prompts.fill(arrays(absent), "test")
        return model

    return make


def module_of(model: PodT5) -> UserPrompts:
    assert model.user_prompts is not None
    return model.user_prompts


def test_the_vectors_are_attention_over_the_neighbours(filled: Callable[..., PodT5]) -> None:
    module, given = module_of(filled()), arrays()
    with torch.no_grad():
        found = module(torch.tensor([4]))[0].numpy()
    weights = {name: value.detach().double().numpy() for name, value in module.named_parameters()}
    own, near = (
        given["embeddings"][4].double().numpy(),
        given["embeddings"][given["neighbours"][4].long()].double().numpy(),
    )

    def dense(name: str, rows: np.ndarray) -> np.ndarray:
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    query, key, value = dense("query", own), dense("key", near), dense("value", near)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = np.exp(key[:, head] @ query[head] / np.sqrt(4))
        heads.append(scores / scores.sum() @ value[:, head])
    np.testing.assert_allclose(found, dense("out", np.concatenate(heads)).reshape(2, -1), atol=1e-5)


def test_no_heads_are_a_perceptron_on_the_users_own_embedding(filled: Callable[..., PodT5]) -> None:
    module, given = module_of(filled(user_heads=0)), arrays()
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"hidden", "out"}
    with torch.no_grad():
        expected = module.out(torch.relu(module.hidden(given["embeddings"][[2, 7]]))).view(2, 2, -1)
        torch.testing.assert_close(module(torch.tensor([2, 7])), expected)


def test_an_unknown_user_has_the_mean_of_all_known_ones(filled: Callable[..., PodT5]) -> None:
    module = module_of(filled(absent=(3,)))
    with torch.no_grad():
        known = module(torch.tensor([1, 2, 4, 5, 6, 7, 8, 9]))
        found = module(torch.tensor([0, 3, 5]))
    torch.testing.assert_close(found[0], known.mean(dim=0))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], known[3])


def test_the_table_is_what_is_computed_live(filled: Callable[..., PodT5]) -> None:
    module = module_of(filled(absent=(3, 8)))
    table = module.table()
    assert table.shape == (COUNT + 1, 2, 16) and table.dtype == torch.float32
    for user in range(COUNT + 1):
        torch.testing.assert_close(table[user], module(torch.tensor([user]))[0], atol=1e-6, rtol=0)


def test_the_mean_follows_the_weights(filled: Callable[..., PodT5]) -> None:
    module = module_of(filled())
    with torch.inference_mode():
        before = module(torch.tensor([0]))
    with torch.no_grad():
        module.out.bias += 1.0
        after = module(torch.tensor([0]))
    torch.testing.assert_close(after, before + 1.0)


def test_in_training_the_mean_is_an_estimate_with_gradients(filled: Callable[..., PodT5]) -> None:
    module = module_of(filled(absent=(3,))).train()
    module(torch.tensor([3])).sum().backward()
    assert module.query.weight.grad is not None and module.query.weight.grad.abs().sum() > 0
    torch.manual_seed(1)
    first = module.mean()
    torch.manual_seed(1)
    assert torch.equal(first, module.mean())


@pytest.mark.parametrize("prompts", [0, 3])
def test_users_vectors_stand_between_the_tasks_and_the_text(
    filled: Callable[..., PodT5], encoder: InputEncoder, prompts: int
) -> None:
    model = filled(prompts=prompts)
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, user, [5, 6]) for user in (2, 7)])
    seen = {}
    model.backbone.encoder.register_forward_pre_hook(lambda _module, _args, given: seen.update(given), with_kwargs=True)
    with torch.no_grad():
        hidden, mask = model.encode(model_batch(batch, 1))
        assert torch.equal(seen["inputs_embeds"][:, prompts : prompts + 2], module_of(model)(torch.tensor([2, 7])))
        assert torch.equal(seen["inputs_embeds"][0, :prompts], model.prompts[1])
    assert hidden.shape[1] == mask.shape[1] == prompts + 2 + batch.input_ids.shape[1]
    assert mask[:, : prompts + 2].all()


def test_the_whole_word_vector_goes_to_the_tasks_vectors_only(
    filled: Callable[..., PodT5], encoder: InputEncoder
) -> None:
    model = filled(whole_word_on_prompt=True)
    seen = {}
    model.backbone.encoder.register_forward_pre_hook(lambda _module, _args, given: seen.update(given), with_kwargs=True)
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, 2, [5])])
    with torch.no_grad():
        model.encode(model_batch(batch, 0))
        assert torch.equal(seen["inputs_embeds"][0, 3:5], module_of(model)(torch.tensor([2]))[0])
        torch.testing.assert_close(seen["inputs_embeds"][0, :3], model.prompts[0] + model.whole_word.weight[0])


def test_arrays_of_another_shape_are_refused(filled: Callable[..., PodT5]) -> None:
    module = module_of(filled())
    with pytest.raises(CheckpointError, match=r"users.file does not fit .* \(neighbours"):
        module.fill(arrays() | {"neighbours": torch.zeros(2, 3, dtype=torch.int32)}, "users.file")


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def peapod(quick: TrainOptions) -> TrainOptions:
    return dataclasses.replace(quick, user_prompts=2, user_heads=2, neighbours=4, tasks=(Task.SEQUENTIAL,))


def test_training_writes_a_checkpoint_that_loads(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "c", peapod)
    loaded = load_checkpoint(tmp_path / "c")
    module = module_of(loaded.model)
    assert (loaded.config.user_count, loaded.config.user_width, loaded.config.neighbours) == (48, 64, 4)
    assert module.known[1:].all() and not module.known[0]
    assert module.embeddings[1:].square().mean().item() == pytest.approx(1.0, rel=1e-3)
    fresh = load_checkpoint(train_untrained(world, peapod, tmp_path / "untrained"))
    assert torch.equal(module.embeddings, module_of(fresh.model).embeddings)  # frozen
    assert not torch.equal(module.query.weight, module_of(fresh.model).query.weight)  # trained


def train_untrained(world: Dataset, options: TrainOptions, out: Path) -> Path:
    train_model(world, out, dataclasses.replace(options, epochs=0))
    return out


def test_frozen_arrays_are_saved_once(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "c", dataclasses.replace(peapod, epochs=1))
    for name, frozen in ((WEIGHTS_FILE, 0), (TRAINER_FILE, 0), (USERS_FILE, 3)):
        with safe_open(tmp_path / "c" / name, framework="pt") as file:
            found = [key for key in file.keys() if key.split(".")[-1] in ("embeddings", "neighbours", "known")]  # noqa: SIM118
        assert len(found) == frozen, name


def test_resumed_training_gives_the_same_weights(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "whole", peapod)
    train_model(world, tmp_path / "parts", dataclasses.replace(peapod, epochs=1))
    train_model(world, tmp_path / "parts", peapod, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_another_embedding_is_refused_on_resume(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    file = tmp_path / "own.npy"
    np.save(file, np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32))
    options = dataclasses.replace(peapod, epochs=1, user_vectors=str(file))
    train_model(world, tmp_path / "c", options)
    assert load_checkpoint(tmp_path / "c").config.user_width == 6
    longer = dataclasses.replace(options, epochs=2)
    np.save(file, np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32))
    with pytest.raises(ConfigError, match=r"own.npy changed since this training began"):
        train_model(world, tmp_path / "c", longer, resume=True)
    other = train_untrained(world, dataclasses.replace(peapod, user_vectors=str(file)), tmp_path / "other")
    (tmp_path / "c" / USERS_FILE).write_bytes((other / USERS_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="is not the one that training began with"):
        train_model(world, tmp_path / "c", longer, resume=True)


def test_training_with_an_mlp_and_without_task_prompts(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    train_model(world, tmp_path / "c", dataclasses.replace(peapod, user_heads=0, prompts=0, epochs=1))
    model = load_checkpoint(tmp_path / "c").model
    assert model.prompts.shape[1] == 0 and hasattr(module_of(model), "hidden")


def test_a_checkpoint_without_its_arrays_does_not_load(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    folder = train_untrained(world, peapod, tmp_path / "c")
    (folder / USERS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"users.safetensors is missing"):
        load_checkpoint(folder)


# --- embeddings of one's own ----------------------------------------------------------------------------------------


def test_own_embeddings_by_raw_id(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float64)
    np.savez(tmp_path / "own.npz", raw_ids=np.array(["user-7", "nobody", "user-2"]), vectors=vectors)
    found = read_user_vectors(tmp_path / "own.npz", world)
    assert np.flatnonzero(found.known).tolist() == [2, 7]
    np.testing.assert_allclose(found.vectors[7], vectors[0], rtol=1e-6)
    options = dataclasses.replace(peapod, epochs=1, user_vectors=str(tmp_path / "own.npz"))
    train_model(world, tmp_path / "c", options, Source())
    module = module_of(load_checkpoint(tmp_path / "c").model)
    assert module.neighbours[[3, 8, 1]].tolist() == [[8], [3], [0]]  # each other's only one


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((5, 4), dtype=np.float32), "5 rows for 48 users"),
        (np.zeros((48, 4), dtype=np.int64), "floating-point"),
        (np.zeros(48, dtype=np.float32), "floating-point"),
        (np.full((48, 4), np.nan, dtype=np.float32), "NaN"),
        ({"raw_ids": np.array(["user-1"]), "vectors": np.zeros((2, 4))}, "1 raw ids for 2 vectors"),
        ({"raw_ids": np.array(["user-1"] * 2), "vectors": np.zeros((2, 4))}, "twice"),
        ({"raw_ids": np.array(["x", "user-1"]), "vectors": np.zeros((2, 4))}, "1 of the dataset's users"),
        ({"vectors": np.zeros((2, 4))}, "no user embeddings"),
        (b"no array", "no user embeddings"),
    ],
)
def test_faulty_embeddings_are_refused(world: Dataset, tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / ("own.npz" if isinstance(content, dict) else "own.npy")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=message):
        read_user_vectors(path, world)


def test_missing_embeddings_and_conflicts_are_refused(world: Dataset, peapod: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no user embeddings"):
        read_user_vectors(tmp_path / "none.npy", world)
    without = dataclasses.replace(peapod, user_prompts=0, user_vectors="own.npy")
    with pytest.raises(ConfigError, match="--user-vectors needs --user-prompts"):
        train_model(world, tmp_path / "c", without)
    with pytest.raises(ConfigError, match="cannot be cut into 7 heads"):
        train_model(world, tmp_path / "d", dataclasses.replace(peapod, user_heads=7))
