"""The layout triton: a graph that needs all its inputs, a configuration that names them, the answers of the bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import INT8, Manifest
from podx.decoding.options import ItemSearchOptions
from podx.errors import DataError, ExportError
from podx.graphs.model import GraphModel
from podx.graphs.numbers import NumberBatch, recommend_by_numbers
from podx.graphs.session import SessionOptions
from podx.text.templates import Task
from podx_export.blocks.graph import BF16
from podx_export.layouts.export import RELEASE, export_triton
from podx_export.layouts.triton_config import MAX_BATCH, least_release
from podx_train.data.dataset import Dataset
from podx_train.options import TrainOptions
from podx_train.training.train import train_model
from tests.conftest import made_once
from tests.export.one_pass_world import CODES, one_pass_world, write_one_pass

TYPES = {"TYPE_INT64": TensorProto.INT64, "TYPE_FP32": TensorProto.FLOAT, "TYPE_BOOL": TensorProto.BOOL}
TENSOR = re.compile(r'^(input|output) { name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \](.*) }$', re.MULTILINE)
SHAPELESS = " reshape { shape: [ ] }"
NONE = np.zeros(0, dtype=np.int64)
Tensors = dict[str, tuple[int, list[int]]]


@pytest.fixture(scope="module")
def repository(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model of all tasks."""

    def make(folder: Path) -> None:
        export_triton(trained, folder / "models", parity_users=2)

    return made_once(tmp_path_factory, "triton-layout", make) / "models"


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-pass model, which reads no user, in 8 bits."""

    def make(folder: Path) -> None:
        write_one_pass(folder / "checkpoint", one_pass_world(CODES["three codes"]))
        export_triton(folder / "checkpoint", folder / "models", precision=INT8, parity_users=2)
        assert not (folder / "models" / "podx" / "users.txt").exists()

    return made_once(tmp_path_factory, "triton-layout-rounded", make) / "models"


def configured(text: str, field: str) -> Tensors:
    """Types and shapes that a configuration gives, the batch in front."""
    found: Tensors = {}
    for kind, name, dtype, dims, rest in TENSOR.findall(text):
        assert rest in ("", SHAPELESS)
        if kind == field:
            found[name] = TYPES[dtype], [-1, *([] if rest else map(int, dims.split(",")))]
    return found


def declared(values: Any) -> Tensors:
    """Types and shapes of a graph's inputs or outputs."""
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


@pytest.mark.parametrize("name", ["repository", "rounded"])
def test_the_configuration_names_what_the_graph_has(name: str, request: pytest.FixtureRequest) -> None:
    model_folder = request.getfixturevalue(name) / "podx"
    text = (model_folder / "config.pbtxt").read_text()
    model = onnx.load(model_folder / "1" / "model.onnx", load_external_data=False)
    inputs = declared(model.graph.input)
    assert configured(text, "input") == inputs and inputs.keys().isdisjoint({sig.BEAMS, sig.K, sig.LENGTH_PENALTY})
    assert configured(text, "output") == declared(model.graph.output)
    assert inputs.keys().isdisjoint(tensor.name for tensor in model.graph.initializer), "all of them must be given"
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in model.graph.input)
    rest = TENSOR.sub("", text).split()
    assert f"max_batch_size: {MAX_BATCH}" in text and "Triton 25.05 or later" in text
    assert ("KIND_CPU" in rest) is (name == "rounded") and "KIND_GPU" not in rest


@pytest.mark.parametrize("name", ["repository", "rounded"])
def test_tritons_own_protobuf_reads_it(name: str, request: pytest.FixtureRequest) -> None:
    reason = "needs tritonclient[grpc], which pip installs with a protobuf older than that of podx[train]"
    text_format = pytest.importorskip("google.protobuf.text_format")
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=reason)
    model_folder = request.getfixturevalue(name) / "podx"
    text = (model_folder / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("podx", "onnxruntime", MAX_BATCH)
    assert config.HasField("dynamic_batching")
    for field, tensors in (("input", config.input), ("output", config.output)):
        found = {
            tensor.name: (
                TYPES[model_config_pb2.DataType.Name(tensor.data_type)],
                [-1, *(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)],
            )
            for tensor in tensors
        }
        assert found == configured(text, field) and all(tensor.dims for tensor in tensors)


def test_it_answers_as_the_bundle(repository: Path, trained_bundle: Path) -> None:
    text = (repository / "podx" / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(repository / "podx" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    graphs = GraphModel(Bundle.load(trained_bundle), SessionOptions(threads=1))
    random = np.random.default_rng(7)
    histories = [random.choice(300, size=size, replace=False) + 1 for size in (1, 4, 6)]
    batch = NumberBatch([3, -1, 40], histories, [NONE, *histories[1:]], [None, None, np.arange(1, 60)])
    feeds = {name: batch.feeds()[name] for name in configured(text, "input")}
    items, scores, exact = session.run(["items", "scores", "exact"], feeds)
    expected = recommend_by_numbers(graphs.session(sig.NUMBERS_FILE), batch, 10, ItemSearchOptions())
    np.testing.assert_array_equal(items, expected.items)
    np.testing.assert_array_equal(scores, expected.scores)
    np.testing.assert_array_equal(exact, expected.exact)
    assert (items[0] > 0).all()


def test_line_n_is_the_raw_id_of_number_n(repository: Path, trained_bundle: Path) -> None:
    bundle = Bundle.load(trained_bundle)
    for name, table in (("items.txt", bundle.catalog.items), ("users.txt", bundle.users.ids)):
        lines = (repository / "podx" / name).read_text().splitlines()
        assert lines == [table.raw(number) for number in range(1, len(table) + 1)]


def test_other_models_of_the_repository_stay(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    manifest = export_triton(trained, tmp_path, parity_users=2)
    assert isinstance(manifest, Manifest) and manifest.provenance[RELEASE] == "25.05"
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(manifest.files) == files == {
        *("podx/config.pbtxt", "podx/items.txt", "podx/users.txt"),
        *("podx/1/model.onnx", "podx/1/weights.bin", "podx/1/catalog.bin"),
    }  # fmt: skip
    with pytest.raises(DataError, match="--force"):
        export_triton(trained, tmp_path, parity_users=2)
    assert (tmp_path / "other").is_dir() and not list(tmp_path.glob("*.partial"))


def test_what_no_server_is_known_to_run_is_refused(world: Dataset, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fp16"):
        export_triton(trained, tmp_path / "models", precision=BF16)
    options = TrainOptions(epochs=0, prompts=2, tasks=(Task.EXPLANATION,), device="cpu")
    train_model(world, tmp_path / "checkpoint", options)
    with pytest.raises(ExportError, match="explanation alone"):
        export_triton(tmp_path / "checkpoint", tmp_path / "models", parity_users=2)
    assert not (tmp_path / "models" / "podx").exists()


def graph_of(opset: int, *operators: str) -> onnx.ModelProto:
    nodes = [helper.make_node(operator, ["a"], ["b"], domain="com.microsoft") for operator in operators]
    return helper.make_model(helper.make_graph(nodes, "g", [], []), opset_imports=[helper.make_opsetid("", opset)])


def test_opset_and_operators_name_the_release() -> None:
    assert least_release(graph_of(17)) == ("23.12", "1.12.0")
    assert least_release(graph_of(21)) == ("24.12", "1.18.0")
    assert least_release(graph_of(17, "MultiHeadAttention")) == ("25.05", "1.21.1")
    with pytest.raises(ExportError, match="opset 99, NewOperator"):
        least_release(graph_of(99, "NewOperator"))
