"""The export pipeline: what is written, what is refused, and that nothing half done is left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.manifest import MANIFEST_FILE
from podx.decoding.options import TextSearchOptions
from podx.errors import BundleError, ExportError, ParityError
from podx.requests.types import ExplainRequest, RankRequest, RecommendRequest
from podx.text.templates import Task
from podx_export import pipeline
from podx_export.blocks.source import SourceModel
from podx_export.pipeline import export_checkpoint
from podx_export.verify.parity import Parity, largest_difference, measure
from podx_export.verify.samples import draw
from podx_export.verify.validate import faults
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.options import TrainOptions
from podx_train.training.train import train_model


@pytest.mark.parametrize("model", ["untrained", "trained", "gated"])
@pytest.mark.parametrize("task", list(Task))
def test_log_probabilities_equal_eager(model: str, task: Task, request: pytest.FixtureRequest) -> None:
    source = load_checkpoint(request.getfixturevalue(model))
    bundle = Bundle.load(request.getfixturevalue(f"{model}_bundle"))
    batch = draw(source, task, 8, seed=11).encode(source)
    assert largest_difference(source, bundle, task, batch) < 1e-4


def test_prompts_may_carry_the_whole_word_vector(world: Dataset, tmp_path: Path) -> None:
    options = TrainOptions(epochs=0, prompts=4, whole_word_on_prompt=True, device="cpu")
    train_model(world, tmp_path / "checkpoint", options)
    source = load_checkpoint(tmp_path / "checkpoint")
    with torch.no_grad():
        source.model.whole_word.weight[0] += 1.0
        plain = source.model.encode(_inputs(source))[0]
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", parity_users=4)
    source = load_checkpoint(tmp_path / "checkpoint")
    with torch.no_grad():
        moved = source.model.encode(_inputs(source))[0]
    assert (plain - moved).abs().max() > 0.01  # the vector matters, so the parity above is no accident


def _inputs(source: Checkpoint) -> ModelBatch:
    batch = draw(source, Task.SEQUENTIAL, 2).encode(source)
    arrays = (batch.input_ids, batch.whole_word_ids, batch.attention_mask, np.zeros(batch.size, dtype=np.int64))
    return ModelBatch(*(torch.as_tensor(array) for array in arrays))


def test_parity_is_in_the_manifest(untrained_bundle: Path) -> None:
    parity = Bundle.load(untrained_bundle).manifest.parity
    assert 0 < parity["max_difference"] < 1e-4
    assert parity["requests"] == 8 * len(Task)
    assert parity["equal_lists"] == 1.0


def test_the_manifest_says_how_far_the_search_can_walk(untrained_bundle: Path) -> None:
    bundle = Bundle.load(untrained_bundle)
    assert bundle.manifest.levels == bundle.catalog.trie.depth > 1
    assert {sig.RECOMMEND_FILE, CATALOG_FILE} <= set(bundle.manifest.files)


def test_each_weight_is_stored_once(untrained: Path, untrained_bundle: Path) -> None:
    parameters = sum(p.numel() for p in load_checkpoint(untrained).model.parameters())
    graphs = [
        onnx.load(untrained_bundle / name, load_external_data=False)
        for name in (sig.ENCODER_FILE, sig.DECODER_FILE, sig.ITEM_DECODER_FILE, sig.RECOMMEND_FILE)
    ]
    inside = sum(len(tensor.raw_data) for graph in graphs for tensor in graph.graph.initializer)
    weights = (untrained_bundle / sig.WEIGHTS_FILE).stat().st_size
    padding = 4096 * 60
    assert 4 * parameters * 0.9 < weights < 4 * parameters + padding
    assert inside < 100_000
    names = {tensor.name for graph in graphs for tensor in graph.graph.initializer}
    assert "embedding" in names and "output" not in names  # tied: a session loads it once


def test_graphs_have_the_signature(untrained_bundle: Path) -> None:
    shape = Bundle.load(untrained_bundle).manifest.shape
    encoder = onnx.load(untrained_bundle / sig.ENCODER_FILE, load_external_data=False).graph
    decoder = onnx.load(untrained_bundle / sig.DECODER_FILE, load_external_data=False).graph
    assert [i.name for i in encoder.input] == [s.name for s in sig.encoder_inputs()]
    assert [o.name for o in encoder.output] == [s.name for s in sig.memory_tensors(shape)]
    expected = sig.step_inputs(False) + sig.memory_tensors(shape) + sig.past_tensors(shape)
    assert [i.name for i in decoder.input] == [s.name for s in expected]
    operators = {node.op_type for graph in (encoder, decoder) for node in graph.node}
    assert not operators & {"If", "Loop", "Scan", "Pad"}  # control flow, and what CUDA lacks for integers


def test_batched_equals_single(trained_bundle: Path) -> None:
    recommender = podx.load(trained_bundle, threads=1)
    requests = [RecommendRequest(f"user-{n}", [f"item-{i}" for i in range(n + 1)]) for n in range(12)]
    together = recommender.recommend_batch(requests, k=5)
    for request, answers in zip(requests, together, strict=True):
        alone = recommender.recommend(request.user, request.history, k=5)
        assert [a.item for a in alone] == [a.item for a in answers]
        np.testing.assert_allclose([a.score for a in alone], [a.score for a in answers], atol=1e-4)


def test_every_task_answers(trained_bundle: Path) -> None:
    recommender = podx.load(trained_bundle, threads=1)
    candidates = [f"item-{n}" for n in range(40, 60)]
    ranked = recommender.rank_batch([RankRequest("user-3", candidates), RankRequest("user-4", candidates[:3])], k=10)
    assert [len(answers) for answers in ranked] == [10, 3]
    assert {a.item for answers in ranked for a in answers} <= set(candidates)
    texts = recommender.explain_batch([ExplainRequest("user-1", "item-5"), ExplainRequest("user-2", "item-6")])
    assert all(text.text and text.score < 0 for text in texts)
    diverse = recommender.explain("user-1", "item-5", TextSearchOptions(diversity_penalty=1.0))
    assert diverse.text
    generated = recommender.generate_items_batch([RecommendRequest("user-1")], k=10)
    assert len(generated[0]) == 10


def test_all_faults_are_listed_at_once(checkpoint: Checkpoint) -> None:
    with torch.no_grad():
        checkpoint.model.prompts[0, 0, 0] = torch.nan
    checkpoint.model.backbone.config.dense_act_fn = "swish"
    users = [*checkpoint.user_ids[:-1], checkpoint.user_ids[0]]
    broken = dataclasses.replace(checkpoint, item_ids=["same", "same", *checkpoint.item_ids[2:]], user_ids=users)
    listed = "\n".join(faults(broken, "int3"))
    for part in ("NaN", "swish", "item id 'same' occurs more than once", "user id 'user-0' occurs", "int3"):
        assert part in listed


def test_failing_parity_is_a_failed_export(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.read_model

    def slightly_wrong(model: PodT5) -> object:
        source = real(model)
        source.decoder[0].attention.out[:] += 0.05
        return source

    monkeypatch.setattr(pipeline, "read_model", slightly_wrong)
    with pytest.raises(ParityError, match="do not answer like the eager model"):
        export_checkpoint(untrained, tmp_path / "bundle", parity_users=2)
    assert list(tmp_path.iterdir()) == []


def test_parity_sees_a_wrong_recommender_alone(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.build_recommender

    def slightly_wrong(model: SourceModel, *rest: object, **options: object) -> object:
        return real(dataclasses.replace(model, decoder_norm=model.decoder_norm * 1.1), *rest, **options)

    monkeypatch.setattr(pipeline, "build_recommender", slightly_wrong)
    with pytest.raises(ParityError, match="do not answer like the eager model"):
        export_checkpoint(untrained, tmp_path / "bundle", parity_users=2)
    assert list(tmp_path.iterdir()) == []


def test_parity_requires_scores_and_lists() -> None:
    Parity(1e-5, 10, 1.0).require()
    for wrong in (Parity(0.1, 10, 1.0), Parity(1e-5, 10, 0.9), Parity(float("nan"), 10, 1.0)):
        with pytest.raises(ParityError):
            wrong.require()


def test_parity_sees_a_wrong_bundle(untrained: Path, trained_bundle: Path) -> None:
    assert measure(load_checkpoint(untrained), Bundle.load(trained_bundle), 2).max_difference > 0.1


@pytest.mark.parametrize("stage", ["_save_graph", "measure", "put_in_place"])
def test_a_kill_leaves_nothing_that_loads(
    stage: str, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, stage, die)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(untrained, tmp_path / "bundle", parity_users=1)
    with pytest.raises(BundleError):
        Bundle.load(tmp_path / "bundle")


def test_an_existing_bundle_is_replaced_only_when_asked(
    untrained: Path, untrained_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(untrained_bundle, out)
    before = (out / MANIFEST_FILE).read_text()
    with pytest.raises(ExportError, match="--force"):
        export_checkpoint(untrained, out, parity_users=1)
    assert (out / MANIFEST_FILE).read_text() == before
    export_checkpoint(untrained, out, parity_users=2, force=True)
    assert json.loads((out / MANIFEST_FILE).read_text())["parity"]["requests"] == 2 * len(Task)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_replaced_stays(
    untrained_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial, backup = (tmp_path / name for name in ("bundle", "bundle.partial", "bundle.old"))
    for folder in (out, partial, backup):
        shutil.copytree(untrained_bundle, folder)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == partial:
            raise OSError("no room")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no room"):
        pipeline.put_in_place(partial, out)
    monkeypatch.undo()
    assert Bundle.load(out).manifest == Bundle.load(untrained_bundle).manifest
    pipeline.put_in_place(partial, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.old"]  # a user's own copy is spared


def test_the_current_folder_can_be_the_bundle(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    export_checkpoint(untrained, Path(), parity_users=1)
    assert Bundle.load(tmp_path / "bundle").manifest.parity["equal_lists"] == 1.0


def test_force_spares_a_folder_that_is_no_bundle(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(ExportError, match="no bundle"):
        export_checkpoint(untrained, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "keep me"
