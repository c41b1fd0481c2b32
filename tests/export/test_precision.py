"""Precisions below float32: what they cost, what they weigh, and how weights are rounded."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import T5Config

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, TOKENIZER_FILE, USERS_FILE, Bundle
from podx.decoding.options import ItemSearchOptions
from podx.errors import ExportError, ParityError
from podx.graphs.session import CUDA, resolve_device
from podx.metrics import overlap
from podx.requests.batch import ItemBatch
from podx.requests.types import RankRequest, RecommendRequest
from podx.text.templates import Task
from podx_export.blocks import integer
from podx_export.blocks.graph import BF16, FP16, FP32, INT8
from podx_export.blocks.quantize import LARGEST, Quantized, quantize_columns, quantize_rows
from podx_export.card import NOT_MEASURED
from podx_export.pipeline import COST_USERS, export_checkpoint, write_bundle
from podx_export.verify.cost import _compare as compare_lists
from podx_export.verify.samples import draw
from podx_export.verify.validate import PRECISIONS
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.pod_t5 import PodT5
from tests.export.tiny import PLAIN, catalog_of, make_small, random_items, random_model, random_text

USERS, TOP = 256, 10
BYTES = {FP32: 4, INT8: 1, FP16: 2, BF16: 2}
TYPES = {
    FP32: onnx.TensorProto.FLOAT,
    INT8: onnx.TensorProto.INT8,
    FP16: onnx.TensorProto.FLOAT16,
    BF16: onnx.TensorProto.BFLOAT16,
}
MOST_BYTES = 1.15
"""Size of a bundle, by that of its weights, catalog, tokeniser and users."""


# --- what it costs ----------------------------------------------------------------------------------------------------


def _lists(bundle: Path, task: Task) -> np.ndarray:
    """Answers by number, of users each in a batch of others: [users, 10]."""
    recommender = podx.load(bundle, threads=1)
    if task is Task.SEQUENTIAL:
        found = recommender.recommend_batch([RecommendRequest(f"user-{n}") for n in range(USERS)], TOP)
    else:
        names = [[f"item-{(7 * n + step) % 300}" for step in range(100)] for n in range(USERS)]
        found = recommender.rank_batch([RankRequest(f"user-{n}", own) for n, own in enumerate(names)], TOP)
    number = recommender.bundle.catalog.items.number
    return np.array([[number(answer.item) for answer in answers] for answers in found])


@pytest.mark.parametrize("task", [Task.SEQUENTIAL, Task.TOPN])
def test_a_trained_model_answers_nearly_as_in_float32(task: Task, trained_bundle: Path, rounded_bundle: Path) -> None:
    exact, rounded = _lists(trained_bundle, task), _lists(rounded_bundle, task)
    assert 0.95 <= overlap(rounded, exact, TOP) < 1.0  # below 1: so it is not float32 under another name


def test_answers_in_int8_do_not_depend_on_the_batch(rounded_bundle: Path) -> None:
    """Each row of activations is rounded by its own range. A sum's last bit may tip a rounding, and no more."""
    recommender = podx.load(rounded_bundle, threads=1)
    batch = recommender.recommend_batch([RecommendRequest(f"user-{n}") for n in range(32)], TOP)
    for number, together in enumerate(batch):
        alone = recommender.recommend(f"user-{number}", k=TOP)
        assert [answer.item for answer in alone] == [answer.item for answer in together]
        scores = [[answer.score for answer in answers] for answers in (alone, together)]
        np.testing.assert_allclose(*scores, atol=3e-3)


def test_the_manifest_says_what_it_cost(trained_bundle: Path, rounded_bundle: Path) -> None:
    manifest = Bundle.load(rounded_bundle).manifest
    assert manifest.precision == INT8
    cost = manifest.parity["cost"]
    assert [entry["task"] for entry in cost] == [Task.SEQUENTIAL, Task.TOPN]
    for entry in cost:
        assert entry["users"] == COST_USERS
        assert 0.95 <= entry["overlap"] < 1.0
        assert abs(entry["hit_rate"] - entry["fp32_hit_rate"]) < 0.05
    assert "cost" not in Bundle.load(trained_bundle).manifest.parity


def test_the_cost_counts_shared_answers_and_last_items(untrained: Path) -> None:
    source = load_checkpoint(untrained)
    sample = draw(source, Task.SEQUENTIAL, 8)
    last = np.array([int(source.sequences.of(int(user))[-1]) for user in sample.users])
    own, wide = (np.tile(np.arange(1001, 1011), (8, 1)) for _ in range(2))
    wide[:, 0] = last
    own[:, 9] = np.where(np.arange(8) < 2, last, 0)
    found = compare_lists(Task.SEQUENTIAL, sample, source, own, wide)
    assert (found.task, found.users, found.hit_rate, found.fp32_hit_rate) == ("sequential", 8, 0.25, 1.0)
    assert found.overlap == pytest.approx((2 * 0.9 + 6 * 0.8) / 8)  # 1002 … 1009, and the last item of two users


def test_answers_in_int8_keep_every_limit(rounded_bundle: Path) -> None:
    random, recommender = np.random.default_rng(3), podx.load(rounded_bundle, threads=1)
    catalog = np.array([f"item-{n}" for n in range(300)])
    requests, permitted = [], []
    for user in random.integers(0, 1000, size=500):
        drawn = random.choice(catalog, size=60, replace=False).tolist()
        allow = drawn[random.integers(5, 40) :] if random.random() < 0.5 else None
        requests.append(RecommendRequest(f"user-{user}", drawn[:10], drawn[10:20], allow))
        permitted.append(set(allow or catalog.tolist()) - set(drawn[:20]))
    for answers, may in zip(recommender.recommend_batch(requests, k=TOP), permitted, strict=True):
        items = [answer.item for answer in answers]
        assert set(items) <= may and len(set(items)) == len(items) == min(TOP, len(may))


@pytest.mark.parametrize(("precision", "least"), [(INT8, 0.8), (FP16, 0.99)])
def test_a_random_model_answers_nearly_as_in_float32(
    precision: str, least: float, untrained: Path, tmp_path: Path
) -> None:
    """Of random weights, whose scores lie close together."""
    random = np.random.default_rng(0)
    source, catalog = random_model(load_checkpoint(untrained), 5), catalog_of(random_items(random, 60, 4, 9))
    batch = ItemBatch(random_text(random, 100), 0, [PLAIN] * 100, [None] * 100, TOP)
    small = {name: make_small(source, catalog, tmp_path / name, name) for name in (FP32, precision)}
    exact, rounded = (one.search(batch, ItemSearchOptions()) for one in small.values())
    assert overlap(rounded.items, exact.items, TOP) >= least
    assert 0 < np.abs(np.sort(rounded.scores) - np.sort(exact.scores)).max() < 0.5


@pytest.mark.skipif(resolve_device("auto") == CUDA, reason="with a GPU bf16 is measured")
def test_what_cannot_be_measured_is_said(untrained: Path, tmp_path: Path) -> None:
    parity = export_checkpoint(untrained, tmp_path / "bundle", precision=BF16, parity_users=1).parity
    assert set(parity) == {NOT_MEASURED} and "no GPU" in parity[NOT_MEASURED]
    assert Bundle.load(tmp_path / "bundle").manifest.parity == parity


def test_graphs_that_are_broken_and_not_rounded_are_refused(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upside_down(weight: np.ndarray) -> Quantized:
        right = quantize_columns(weight)
        return Quantized(np.ascontiguousarray(right.values[::-1]), right.scale)

    monkeypatch.setattr(integer, "quantize_columns", upside_down)
    with pytest.raises(ParityError, match=r"in int8 the top 10 of .* take another --precision; nothing was written"):
        export_checkpoint(untrained, tmp_path / "bundle", precision=INT8, parity_users=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["int4", "FP32", ""])
def test_a_precision_that_does_not_exist_is_refused(precision: str, untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"precision '{precision}' is not supported") as refused:
        export_checkpoint(untrained, tmp_path / "bundle", precision=precision)
    assert all(name in str(refused.value) for name in PRECISIONS)
    assert {FP32, INT8} <= set(PRECISIONS)
    assert list(tmp_path.iterdir()) == []


# --- what it weighs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PRECISIONS)
def heavy(
    request: pytest.FixtureRequest, untrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Counter[int]]:
    """A bundle of some ten million weights, and how many they are by element type: int8's tables are in float16."""
    source = load_checkpoint(untrained)
    config = T5Config(
        vocab_size=8000,
        d_model=320,
        d_kv=64,
        d_ff=2048,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=5,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    model = PodT5(PodConfig(backbone=backbone_fields(config), prompts=3, whole_word_rows=64)).eval()
    source = dataclasses.replace(source, model=model, config=model.config)
    folder = tmp_path_factory.mktemp("heavy")
    write_bundle(source, source.catalog(), folder, request.param)
    tables = (model.backbone.shared.weight, model.whole_word.weight)
    in_tables = sum(table.numel() for table in tables)
    others = sum(parameter.numel() for parameter in model.parameters()) - in_tables
    return folder, Counter({TYPES[request.param]: others}) + Counter(
        {TYPES[FP16 if request.param == INT8 else request.param]: in_tables}
    )


def test_a_bundle_holds_each_weight_once(heavy: tuple[Path, Counter[int]]) -> None:
    folder, weights = heavy
    bytes_of = {TYPES[precision]: size for precision, size in BYTES.items()}
    once = sum(count * bytes_of[kind] for kind, count in weights.items())
    assert once > 8_000_000
    beside = sum((folder / name).stat().st_size for name in (CATALOG_FILE, TOKENIZER_FILE, USERS_FILE))
    whole = sum(path.stat().st_size for path in folder.iterdir())
    assert once * 0.9 < (folder / sig.WEIGHTS_FILE).stat().st_size < once * 1.1
    assert whole <= MOST_BYTES * (once + beside)


def test_matrices_are_kept_in_the_precision_asked_for(heavy: tuple[Path, Counter[int]]) -> None:
    folder, weights = heavy
    stored: Counter[int] = Counter()  # elements by type, each place in the file counted once
    seen: set[str] = set()
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place.get("location") == sig.WEIGHTS_FILE and place["offset"] not in seen:
                seen.add(place["offset"])
                stored[tensor.data_type] += int(np.prod(tensor.dims))
    own = sum(weights.values())
    for kind, count in weights.items():
        assert 0.95 * count < stored.pop(kind) < 1.05 * count
    assert sum(stored.values()) < own / 50


# --- how weights are rounded ------------------------------------------------------------------------------------------


def test_rounding_errs_by_half_a_step_at_most() -> None:
    random = np.random.default_rng(0)
    for size in (1e-6, 1e-2, 1.0, 1e4):
        weight = (random.standard_normal((64, 40)) * size * random.uniform(0.1, 10, size=40)).astype(np.float32)
        quantized = quantize_columns(weight)
        assert (quantized.values.dtype, quantized.scale.dtype) == (np.int8, np.float32)
        assert quantized.values.shape == weight.shape and quantized.scale.shape == (40,)
        error = np.abs(quantized.values.astype(np.float64) * quantized.scale - weight)
        assert (error <= quantized.scale * 0.5001).all()
        assert (np.abs(quantized.values).max(axis=0) == LARGEST).all()  # the whole range is used


def test_channels_have_scales_of_their_own() -> None:
    weight = np.array([[1.0, 1000.0], [-0.5, 250.0]], dtype=np.float32)
    quantized = quantize_columns(weight)
    assert quantized.values.tolist() == [[LARGEST, LARGEST], [-LARGEST // 2, LARGEST // 4]]
    np.testing.assert_allclose(quantized.scale, [1 / LARGEST, 1000 / LARGEST], rtol=1e-6)
    rows = quantize_rows(weight.T)
    np.testing.assert_array_equal(rows.values, quantized.values.T)
    np.testing.assert_array_equal(rows.scale, quantized.scale)


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = np.array([[0.0, 2.0], [0.0, -1.0]], dtype=np.float32)
    columns, rows = quantize_columns(weight), quantize_rows(weight.T)
    half = -LARGEST // 2
    assert columns.values.tolist() == [[0, LARGEST], [0, half]] and rows.values.tolist() == [[0, 0], [LARGEST, half]]
    for scale in (columns.scale, rows.scale):
        np.testing.assert_allclose(scale, [1.0, 2 / LARGEST], rtol=1e-6)
