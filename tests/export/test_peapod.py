"""Prompt vectors of users, from training to answers: the folded table against attention computed live."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE
from podx.cli import app
from podx.graphs.cuda_graph import Bucket, CudaGraphRecommender
from podx.graphs.model import GraphModel, batch_feeds
from podx.graphs.session import CPU, SessionOptions
from podx.requests.batch import ItemBatch
from podx.requests.encoder import RequestEncoder
from podx.requests.types import RecommendRequest
from podx.text.templates import Task
from podx_export.catalog.change import CatalogChange
from podx_export.catalog.update import update_bundle
from podx_export.pipeline import export_checkpoint
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.eager.generation import model_batch
from podx_train.options import TrainOptions
from podx_train.training.train import train_model

P, K = 3, 2
TASKS = (Task.SEQUENTIAL, Task.TOPN)
WITHOUT = (4, 9)
"""Users whose embeddings the file of one's own lacks."""


def _train(world: Dataset, folder: Path, **changes: object) -> Path:
    options = {"user_prompts": P, "user_heads": 2, "neighbours": 5, "prompts": K, "max_updates": 6, "tasks": TASKS}
    train_model(world, folder, TrainOptions(lr=5e-3, device="cpu", validation_users=16, **(options | changes)))
    return folder


@pytest.fixture(scope="module")
def checkpoint_path(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own embeddings, which two users lack."""
    folder = tmp_path_factory.mktemp("peapod")
    having = [number for number in range(1, world.user_count + 1) if number not in WITHOUT]
    vectors = np.random.default_rng(2).normal(size=(len(having), 16)).astype(np.float32)
    np.savez(folder / "own.npz", raw_ids=np.array([world.user_ids[n - 1] for n in having]), vectors=vectors)
    return _train(world, folder / "checkpoint", user_vectors=str(folder / "own.npz"))


@pytest.fixture(scope="module")
def bundle_path(checkpoint_path: Path) -> Path:
    export_checkpoint(checkpoint_path, checkpoint_path.parent / "bundle", parity_users=8)
    return checkpoint_path.parent / "bundle"


@pytest.fixture(scope="module")
def source(checkpoint_path: Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path)


def _memory(bundle: Bundle, source: Checkpoint, users: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Encoder output of both, seen through the first decoder layer's keys: by the graph, and by the model."""
    encoder = source.encoder()
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, user, [5, 6, 7]) for user in users])
    found = GraphModel(bundle, SessionOptions(CPU)).encode(batch, 0)
    with torch.no_grad():
        hidden, _ = source.model.encode(model_batch(batch, 0))
        keys = source.model.backbone.decoder.block[0].layer[1].EncDecAttention.k(hidden)
    ours = found[sig.cross_key(0)].numpy().transpose(0, 2, 1, 3)
    return ours.reshape(keys.shape), keys.numpy()


def test_the_folded_table_equals_attention_computed_live_for_all_users(bundle_path: Path, source: Checkpoint) -> None:
    stored = np.fromfile(bundle_path / sig.USER_PROMPTS_FILE, dtype=np.float32).reshape(len(source.user_ids) + 1, P, -1)
    assert source.model.user_prompts is not None
    with torch.no_grad():
        for user in range(len(source.user_ids) + 1):
            live = source.model.user_prompts(torch.tensor([user]))[0].numpy()
            np.testing.assert_allclose(stored[user], live, atol=2e-6)
    np.testing.assert_array_equal(stored[list(WITHOUT)], stored[[0, 0]])
    assert not np.allclose(stored[1], stored[2])


def test_graph_and_model_agree_on_every_kind_of_user(bundle_path: Path, source: Checkpoint) -> None:
    ours, theirs = _memory(Bundle.load(bundle_path), source, [1, WITHOUT[0], 2, 1000])
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(theirs[0] - theirs[2]).max() > 1e-2  # so the agreement is no accident


def test_parity_and_lengths_are_in_the_manifest(bundle_path: Path) -> None:
    manifest = Bundle.load(bundle_path).manifest
    assert (manifest.prompts, manifest.user_prompts, manifest.prompt_vectors) == (K, P, K + P)
    assert manifest.parity["equal_lists"] == 1.0 and 0 < manifest.parity["max_difference"] < 1e-4
    assert sig.USER_PROMPTS_FILE in manifest.files


def test_all_graphs_share_the_table(bundle_path: Path) -> None:
    places = set()
    for name in (sig.ENCODER_FILE, sig.RECOMMEND_FILE, sig.CUDA_GRAPH_FILE):
        graph = onnx.load(bundle_path / name, load_external_data=False).graph
        assert sig.USER_ROWS in [value.name for value in graph.input]
        (table,) = (tensor for tensor in graph.initializer if tensor.name == "user_prompts")
        places.add(tuple((entry.key, entry.value) for entry in table.external_data))
    assert len(places) == 1 and ("location", sig.USER_PROMPTS_FILE) in places.pop()


def test_several_rows_are_averaged_and_padding_counts_nothing(bundle_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(bundle_path / sig.ENCODER_FILE), providers=["CPUExecutionProvider"])
    ids = np.array([[5, 6, 1]] * 4)
    feeds = {"input_ids": ids, "whole_word_ids": ids * 0, "attention_mask": ids * 0 + 1, "task_id": np.zeros(4, int)}
    rows = np.array([[7, -1, -1], [8, 7, -1], [-1, 7, 8], [7, 7, 7]])
    keys = session.run([sig.cross_key(0)], feeds | {sig.USER_ROWS: rows})[0]
    alone = session.run([sig.cross_key(0)], feeds | {sig.USER_ROWS: rows[:, :1] * 0 + 7})[0]
    np.testing.assert_array_equal(keys[0], alone[0])
    np.testing.assert_allclose(keys[1], keys[2], atol=1e-6)
    np.testing.assert_allclose(keys[3], alone[3], atol=1e-5)
    assert np.abs(keys[1] - keys[0]).max() > 1e-3


def test_known_users_are_answered_as_by_the_eager_model(bundle_path: Path, source: Checkpoint) -> None:
    rec = podx.load(bundle_path, device="cpu", threads=1)
    users = [*source.user_ids[:3], source.user_ids[WITHOUT[0] - 1]]
    found = rec.recommend_batch([RecommendRequest(user) for user in users], k=5)
    assert [answer.user for answer in found] == ["known", "known", "known", "mean"]
    assert all(len(answer) == 5 for answer in found)
    assert [rec.recommend(user, k=5) for user in users] == found  # batched equals single
    assert len(rec.rank(users[0], source.item_ids[:20], k=4)) == 4


def test_strangers_are_answered_by_their_nearest(bundle_path: Path, source: Checkpoint) -> None:
    rec = podx.load(bundle_path, device="cpu", threads=1, unknown_user="nearest")
    steps = podx.load(bundle_path, device="cpu", threads=1, unknown_user="nearest", search_graph="steps")
    history = [source.item_ids[item - 1] for item in source.sequences.of(20)[:4]]
    request = RecommendRequest("stranger", history)
    (encoded,) = rec.encode([request])
    assert 1 < len(encoded.text.prompt_rows) <= 20 and not set(WITHOUT) & set(encoded.text.prompt_rows)
    one, other = rec.recommend_batch([request], k=5)[0], steps.recommend_batch([request], k=5)[0]
    assert one.user == other.user == "nearest"
    assert [found.item for found in one] == [found.item for found in other]
    mixed = rec.recommend_batch([request, RecommendRequest(source.user_ids[0])], k=5)
    assert [found.item for found in mixed[0]] == [found.item for found in one]
    own = rec.recommend(source.user_ids[WITHOUT[0] - 1], k=5)
    assert own.user == "nearest" and len(own) == 5


def test_a_known_user_is_a_row_of_its_own(bundle_path: Path, source: Checkpoint) -> None:
    encoder = RequestEncoder(Bundle.load(bundle_path), unknown_user="nearest")
    known = encoder.encode(RecommendRequest(source.user_ids[6]))
    assert encoder.reads_user_rows and known.text.prompt_rows == (7,)


def test_captured_buckets_have_one_row_or_twenty(bundle_path: Path, source: Checkpoint) -> None:
    bundle = Bundle.load(bundle_path)
    sample = draw(source, Task.SEQUENTIAL, 3)
    batch = ItemBatch(sample.encode(source), 0, sample.denied, sample.allowed, 10)
    usual = GraphModel(bundle, SessionOptions(CPU)).session(sig.RECOMMEND_FILE)
    captured = CudaGraphRecommender(bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions(CPU))
    wide = np.array([[1, 2, 3], [4, -1, -1], [5, 6, -1]])
    for rows, width in ((None, 1), (wide, 20)):
        feeds = batch_feeds(batch, user_rows=True)
        feeds |= {} if rows is None else {sig.USER_ROWS: rows}
        bucket = Bucket.holding(feeds)
        assert bucket is not None and bucket.user_rows == width and bucket.dimensions()["user_neighbours"] == width
        found = captured.run(feeds)
        assert found is not None
        np.testing.assert_array_equal(found[sig.ITEMS], usual.run(feeds, to_host=usual.outputs)[sig.ITEMS])


def test_a_changed_catalog_keeps_the_table(bundle_path: Path, tmp_path: Path, source: Checkpoint) -> None:
    update_bundle(bundle_path, tmp_path / "other", CatalogChange(delist=(source.item_ids[0],)))
    found = podx.load(tmp_path / "other", device="cpu", threads=1).recommend(source.user_ids[0], k=5)
    assert len(found) == 5 and source.item_ids[0] not in [answer.item for answer in found]


def test_the_command_line_serves_strangers(bundle_path: Path, source: Checkpoint) -> None:
    history = ",".join(source.item_ids[item - 1] for item in source.sequences.of(20)[:4])
    arguments = ["recommend", str(bundle_path), "--user", "stranger", "--history", history, "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--unknown-user", "nearest", "-k", "3"])
    assert result.exit_code == 0, result.output
    assert "by the most similar known users" in " ".join(result.output.split())  # a title is wrapped
    plain = CliRunner().invoke(app, [*arguments, "--unknown-user", "nearest", "--json"])
    assert len(json.loads(plain.stdout)) == 10
    assert "by the most similar known users" in plain.stderr
    assert CliRunner().invoke(app, arguments).exit_code != 0


@pytest.mark.parametrize("changes", [{"user_heads": 0}, {"prompts": 0}], ids=["mlp", "no task prompts"])
def test_ablations_pass_parity(world: Dataset, tmp_path: Path, changes: dict[str, int]) -> None:
    _train(world, tmp_path / "checkpoint", max_updates=2, tasks=(Task.SEQUENTIAL,), **changes)
    manifest = export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", parity_users=4)
    assert manifest.parity["equal_lists"] == 1.0
    assert manifest.prompt_vectors == changes.get("prompts", K) + P
    bundle, source = Bundle.load(tmp_path / "bundle"), load_checkpoint(tmp_path / "checkpoint")
    ours, theirs = _memory(bundle, source, [1, 2])
    assert ours.shape[1] == manifest.prompt_vectors + draw_length(source)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def draw_length(source: Checkpoint) -> int:
    """Tokens of the texts that :func:`_memory` uses, padded."""
    encoder = source.encoder()
    return max(len(encoder.encode(Task.SEQUENTIAL, user, [5, 6, 7])) for user in (1, 2))


@pytest.mark.parametrize(("precision", "bytes_each"), [("int8", 2), ("fp16", 2)])
def test_lower_precisions_halve_the_table(
    checkpoint_path: Path, source: Checkpoint, tmp_path: Path, precision: str, bytes_each: int
) -> None:
    manifest = export_checkpoint(checkpoint_path, tmp_path / "bundle", precision, parity_users=4)
    table = tmp_path / "bundle" / sig.USER_PROMPTS_FILE
    assert table.stat().st_size == bytes_each * (len(source.user_ids) + 1) * P * source.model.prompts.shape[2]
    assert all(cost["overlap"] > 0.5 for cost in manifest.parity["cost"])
    assert len(podx.load(tmp_path / "bundle", device="cpu", threads=1).recommend(source.user_ids[0], k=5)) == 5


def test_bundles_of_models_without_such_vectors_are_as_before(untrained_bundle: Path) -> None:
    assert not (untrained_bundle / sig.USER_PROMPTS_FILE).exists()
    encoder = onnx.load(untrained_bundle / sig.ENCODER_FILE, load_external_data=False).graph
    assert [value.name for value in encoder.input] == [spec.name for spec in sig.encoder_inputs()]
    assert json.loads((untrained_bundle / MANIFEST_FILE).read_text())["user_prompts"] == 0
