"""Products of 8-bit integers are exact on whatever processor runs this; bundles for which they are not are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import EARLIER_INT8_LIMIT, MANIFEST_FILE, file_sha256
from podx.bundle.signature import TensorSpec
from podx.errors import BundleError
from podx.graphs import int8_check
from podx.graphs.instruction_set import instruction_set
from podx.graphs.int8_check import CHECK_FILE, WEIGHT_LIMITS, multiplies_exactly, require_exact_products
from podx.graphs.session import GraphSession, SessionOptions
from podx_export import pipeline
from podx_export.blocks import quantize
from podx_export.blocks.graph import FP32, INT8, GraphBuilder
from podx_export.blocks.int8_check import check_model
from podx_export.blocks.layers import feed_forward, linear
from podx_export.blocks.quantize import LARGEST, quantize_columns
from podx_export.blocks.source import FeedForward
from podx_export.blocks.weights import WeightStore
from podx_export.pipeline import export_checkpoint

FEW = 16
"""Users to measure the cost of a precision on where nobody looks at it."""
IntArray = npt.NDArray[np.int64]


def product_session(folder: Path, weight: npt.NDArray[np.float32]) -> GraphSession:
    """``x @ weight`` as every int8 bundle computes it."""
    return graph_session(folder, *weight.shape, lambda graph, x: linear(graph, x, "weight", weight))


def graph_session(folder: Path, inner: int, outer: int, part: Callable[[GraphBuilder, str], str]) -> GraphSession:
    """``part`` of an int8 graph: ``x`` [rows, inner] → ``y`` [rows, outer]."""
    weights = WeightStore(folder / "weights.bin")
    graph = GraphBuilder("product", weights, INT8)
    x = graph.input(TensorSpec("x", "float32", ("rows", inner)))
    graph.output(TensorSpec("y", "float32", ("rows", outer)), part(graph, x))
    weights.close()
    path = folder / "product.onnx"
    path.write_bytes(graph.model().SerializeToString())
    return GraphSession(path, SessionOptions(threads=1))


def worst_weight(inner: int, columns: int) -> npt.NDArray[np.float32]:
    """Integers within ±64: columns of the largest, of the smallest, of both in turn, and random ones."""
    weight = np.random.default_rng(inner).integers(-LARGEST, LARGEST + 1, (inner, columns)).astype(np.float32)
    weight[0] = LARGEST  # so that every column's scale is 1
    weight[:, 0], weight[1:, 1] = LARGEST, -LARGEST
    weight[:, 2] = np.where(np.arange(inner) % 2, -LARGEST, LARGEST)
    return weight


def worst_rows(count: int, inner: int) -> npt.NDArray[np.float32]:
    """Integers within ±127, so that activations are rounded to themselves: a row of 127, which is 255 in unsigned
    integers, and random ones."""
    rows = np.random.default_rng(count).integers(-127, 128, (count, inner)).astype(np.float32)
    rows[:, 0] = -127
    rows[0] = 127
    return rows


@pytest.mark.parametrize("count", [1, 2, 20, 641])
@pytest.mark.parametrize(("inner", "columns"), [(512, 512), (512, 2048), (2048, 512), (64, 65)])
def test_worst_case_rows_equal_integer_arithmetic(count: int, inner: int, columns: int, tmp_path: Path) -> None:
    weight, rows = worst_weight(inner, columns), worst_rows(count, inner)
    (y,) = product_session(tmp_path, weight).run({"x": rows}, to_host=["y"]).values()
    np.testing.assert_array_equal(quantize_columns(weight).values, weight)
    np.testing.assert_array_equal(y, rows.astype(np.int64) @ weight.astype(np.int64))


@pytest.mark.parametrize("count", [1, 2, 20, 641])
def test_rows_after_a_relu_equal_integer_arithmetic(count: int, tmp_path: Path) -> None:
    """Rounded without a zero point, so that a row of one positive value is a row of 255."""
    inner, hidden, outer = 64, 512, worst_weight(512, 64)
    rows, first = worst_rows(count, inner), worst_weight(inner, hidden)
    first[:, : hidden // 2] = LARGEST  # the first row of hidden values is the largest that there can be
    rows[-1] = -127 if count > 1 else rows[-1]  # and the last has no positive one in that half
    block = FeedForward(np.ones(inner, np.float32), first, outer)
    session = graph_session(tmp_path, inner, 64, lambda graph, x: feed_forward(graph, x, "ff", block, "relu", False))
    (y,) = session.run({"x": rows}, to_host=["y"]).values()
    product = np.maximum(rows.astype(np.float64) @ first, 0)
    step = product.max(axis=1, keepdims=True) / 255
    expected = np.round(product / step) * step @ outer
    assert (
        np.abs(y - expected).max() <= np.abs(expected).max() * 1e-3
    )  # products that lie between two steps round either way


def test_a_row_without_a_positive_value_is_zero_after_a_relu(tmp_path: Path) -> None:
    block = FeedForward(np.ones(8, np.float32), np.ones((8, 16), np.float32), np.ones((16, 4), np.float32))
    session = graph_session(tmp_path, 8, 4, lambda graph, x: feed_forward(graph, x, "ff", block, "relu", False))
    rows = np.array([[1.0] * 8, [-1.0] * 8, [0.0] * 8], dtype=np.float32)
    (y,) = session.run({"x": rows}, to_host=["y"]).values()
    np.testing.assert_allclose(y, [[128.0] * 4, [0.0] * 4, [0.0] * 4], rtol=1e-6)
    (y,) = session.run({"x": rows[:0]}, to_host=["y"]).values()
    assert y.shape == (0, 4)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_row_is_rounded_by_its_own_range(size: float, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    rows = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    rows[1] = 0
    rows[2:] *= size
    session = product_session(tmp_path, weight)
    (y,) = session.run({"x": rows}, to_host=["y"]).values()
    for number, row in enumerate(rows):
        (alone,) = session.run({"x": row[None]}, to_host=["y"]).values()
        np.testing.assert_array_equal(alone[0], y[number])
    exact = rows @ weight
    assert (np.abs(y - exact).max(axis=1) <= np.abs(exact).max(axis=1) * 0.03).all()


def test_the_check_at_load_is_the_graph_that_the_exporter_makes() -> None:
    assert onnx.load(CHECK_FILE) == check_model()


def test_weights_of_todays_bundles_are_exact_everywhere() -> None:
    assert min(WEIGHT_LIMITS) == LARGEST
    assert multiplies_exactly(LARGEST)


def test_the_check_finds_processors_that_saturate() -> None:
    saturates = instruction_set() in ("AVX2", "AVX-512")
    assert multiplies_exactly(EARLIER_INT8_LIMIT) is not saturates


@pytest.fixture(scope="module")
def earlier_bundle(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as it was written before weights were kept within ±64: ±127, and nothing said of it."""
    folder = tmp_path_factory.mktemp("earlier") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "LARGEST", EARLIER_INT8_LIMIT)
        patch.setattr(pipeline, "COST_USERS", FEW)
        patch.setattr(int8_check, "multiplies_exactly", lambda _: True)  # or it would be refused while it is measured
        manifest = export_checkpoint(untrained, folder, INT8, parity_users=2)
    (folder / MANIFEST_FILE).write_text(replace(manifest, int8_limit=0).to_json(), encoding="utf-8")
    return folder


def test_a_bundle_written_before_loads_where_its_products_are_exact(earlier_bundle: Path) -> None:
    if multiplies_exactly(EARLIER_INT8_LIMIT):
        assert len(podx.load(earlier_bundle, threads=1).recommend("user-1", k=3)) == 3
    else:
        with pytest.raises(BundleError, match=r"up to ±127, which this processor .* export the checkpoint again"):
            podx.load(earlier_bundle, threads=1)


@pytest.mark.parametrize("exact", [True, False])
def test_the_check_decides(earlier_bundle: Path, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_check, "multiplies_exactly", lambda limit: exact or limit < EARLIER_INT8_LIMIT)
    if exact:
        assert podx.load(earlier_bundle, threads=1).recommend("user-1", k=3)
    else:
        with pytest.raises(BundleError, match=instruction_set()):
            podx.load(earlier_bundle, threads=1)


def test_weights_beyond_every_known_limit_are_refused() -> None:
    with pytest.raises(BundleError, match="±128"):
        require_exact_products(Path("bundle"), 128)


def test_manifests_say_what_their_weights_keep_to(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "COST_USERS", FEW)
    limits = {}
    for precision in (FP32, INT8):
        manifest = export_checkpoint(untrained, tmp_path / precision, precision, parity_users=2)
        limits[precision] = manifest.largest_int8
        assert Bundle.load(tmp_path / precision).manifest == manifest
        assert manifest.files["recommend.onnx"] == file_sha256(tmp_path / precision / "recommend.onnx")
    assert limits == {FP32: 0, INT8: LARGEST}
    assert [cost["instruction_set"] for cost in manifest.parity["cost"]] == [instruction_set()] * 2
