"""The graph for CUDA graphs: run on the CPU at fixed sizes, it answers as the other one does."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.decoding.options import CUDA_GRAPH_K, ItemSearchOptions
from podx.graphs.cuda_graph import (
    ALLOWED_LENGTHS,
    BATCH_SIZES,
    EXCLUDED_LENGTHS,
    SOURCE_LENGTHS,
    Bucket,
    CudaGraphRecommender,
)
from podx.graphs.model import GraphModel, batch_feeds
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.templates import Task
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint

USERS = 5


@pytest.fixture(scope="module")
def exported(untrained: Path, untrained_bundle: Path) -> tuple[Checkpoint, Bundle]:
    return load_checkpoint(untrained), Bundle.load(untrained_bundle)


def _both(exported: tuple[Checkpoint, Bundle], task: Task, seed: int) -> tuple[dict[str, np.ndarray], object]:
    checkpoint, bundle = exported
    sample = draw(checkpoint, task, USERS, seed)
    task_id = bundle.manifest.tasks.index(task)
    model = GraphModel(bundle, SessionOptions())
    batch = ItemBatch(sample.encode(checkpoint), task_id, sample.denied, sample.allowed, CUDA_GRAPH_K)
    usual = model.recommend(batch, ItemSearchOptions())
    captured = CudaGraphRecommender(bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions())
    return captured.run(batch_feeds(batch)) or {}, usual


@pytest.mark.parametrize("task", [Task.SEQUENTIAL, Task.TOPN])
def test_answers_equal_those_of_the_other_graph(exported: tuple[Checkpoint, Bundle], task: Task) -> None:
    for seed in range(3):
        found, usual = _both(exported, task, seed)
        np.testing.assert_array_equal(found[sig.ITEMS], usual.items)
        np.testing.assert_allclose(found[sig.SCORES], usual.scores, atol=1e-5)
        np.testing.assert_array_equal(found[sig.EXACT], usual.exact)


def test_a_bucket_is_filled_anew_each_time(exported: tuple[Checkpoint, Bundle]) -> None:
    """Later, smaller batches in the same buffers are not answered with what earlier ones left there."""
    checkpoint, bundle = exported
    captured = CudaGraphRecommender(bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions())
    model, task_id = GraphModel(bundle, SessionOptions()), bundle.manifest.tasks.index(Task.SEQUENTIAL)
    for users in (8, 5, 7):
        sample = draw(checkpoint, Task.SEQUENTIAL, users, seed=users)
        batch = ItemBatch(sample.encode(checkpoint), task_id, sample.denied, sample.allowed, CUDA_GRAPH_K)
        found = captured.run(batch_feeds(batch))
        usual = model.recommend(batch, ItemSearchOptions())
        assert found is not None
        np.testing.assert_array_equal(found[sig.ITEMS], usual.items)


def test_threads_share_a_bucket(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    captured = CudaGraphRecommender(bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions(threads=1))
    task_id = bundle.manifest.tasks.index(Task.SEQUENTIAL)
    work = []
    for seed in range(6):
        sample = draw(checkpoint, Task.SEQUENTIAL, 4, seed)
        batch = ItemBatch(sample.encode(checkpoint), task_id, sample.denied, sample.allowed, CUDA_GRAPH_K)
        work.append(batch_feeds(batch))
    alone = [captured.run(feeds) for feeds in work]
    together: dict[int, object] = {}

    def run(number: int) -> None:
        together[number] = captured.run(work[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        np.testing.assert_array_equal(together[number][sig.ITEMS], expected[sig.ITEMS])


def test_buckets_hold_what_they_must() -> None:
    feeds = {
        sig.INPUT_IDS: np.zeros((3, 33), dtype=np.int64),
        sig.EXCLUDED_ITEMS: np.zeros((3, 20), dtype=np.int64),
        sig.ALLOWED_ITEMS: np.zeros((3, 0), dtype=np.int64),
    }
    bucket = Bucket.holding(feeds)
    assert bucket is not None and (bucket.batch, bucket.source, bucket.allowed) == (4, 48, ALLOWED_LENGTHS[0])
    padded = bucket.pad(sig.EXCLUDED_ITEMS, np.full((3, 20), 7))
    assert padded.shape == (4, bucket.excluded) and (padded[:3, :20] == 7).all() and (padded == 7).sum() == 60
    assert (padded[3] == sig.NO_NUMBER).all()
    assert Bucket.holding({**feeds, sig.INPUT_IDS: np.zeros((BATCH_SIZES[-1] + 1, 9), dtype=np.int64)}) is None
    assert Bucket.holding({**feeds, sig.INPUT_IDS: np.zeros((1, SOURCE_LENGTHS[-1] + 1), dtype=np.int64)}) is None


def test_a_cpu_does_not_use_it(exported: tuple[Checkpoint, Bundle]) -> None:
    _, bundle = exported
    assert GraphModel(bundle, SessionOptions())._cuda_graph is None


def test_only_those_that_no_bucket_holds_go_elsewhere(
    exported: tuple[Checkpoint, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, bundle = exported
    sample, task_id = draw(checkpoint, Task.SEQUENTIAL, USERS, 0), bundle.manifest.tasks.index(Task.SEQUENTIAL)
    long = np.resize(np.arange(1, 30), EXCLUDED_LENGTHS[-1] + 1)
    denied, allowed = [*sample.denied[:1], long, *sample.denied[2:]], [*sample.allowed[:3], long, *sample.allowed[4:]]
    batch = ItemBatch(sample.encode(checkpoint), task_id, denied, allowed, CUDA_GRAPH_K)
    model, captured = (
        GraphModel(bundle, SessionOptions()),
        CudaGraphRecommender(bundle.file(sig.CUDA_GRAPH_FILE), SessionOptions()),
    )
    expected = model.recommend(batch, ItemSearchOptions())
    taken: list[int] = []
    run = captured.run
    monkeypatch.setattr(captured, "run", lambda feeds: taken.append(len(feeds[sig.INPUT_IDS])) or run(feeds))
    monkeypatch.setattr(model, "_cuda_graph", captured)
    found = model.recommend(batch, ItemSearchOptions())
    assert taken == [USERS - 2]
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert found.exact is not None and expected.exact is not None and found.exact.tolist() == expected.exact.tolist()


def test_at_fixed_sizes_no_shape_is_left_to_compute(exported: tuple[Checkpoint, Bundle], tmp_path: Path) -> None:
    """ONNX Runtime would run what computes shapes on the CPU, and CUDA then refuses to capture the graph."""
    bundle = exported[1]
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(tmp_path / "at_fixed_sizes.onnx")
    for name, size in Bucket(8, 48, 32, 1).dimensions().items():
        settings.add_free_dimension_override_by_name(name, size)
    ort.InferenceSession(str(bundle.file(sig.CUDA_GRAPH_FILE)), settings, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "at_fixed_sizes.onnx", load_external_data=False).graph.node
    assert len(nodes) > 100
    assert {node.op_type for node in nodes}.isdisjoint({"Shape", "Size", "NonZero", "If", "Loop"})
