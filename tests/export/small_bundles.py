"""Bundles of thirty items, with a hand-made graph that gives back the tables it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from podx.bundle import trie_tables as names
from podx.bundle.bundle import CATALOG_FILE, TOKENIZER_FILE, Bundle
from podx.bundle.catalog import Catalog
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.bundle.signature import RECOMMEND_FILE, WEIGHTS_FILE
from podx.bundle.tables import TableFile
from podx.text.tokenizer import Tokenizer
from podx_export.search.table_initializers import table_initializer
from tests.podx.bundles import manifest

IDS = [f"item {number}" for number in range(1, 31)]
OTHER_GRAPH = "other.onnx"
ITEM_NUMBER = "item_number"
LEVELS = 4


def reader(tables: TableFile, levels: int = LEVELS) -> onnx.ModelProto:
    """A graph that gives every table back, and the node of an item."""
    inits = [table_initializer(name, tables) for name in names.SEARCH_TABLES]
    outputs, nodes = [], []
    for init in inits:
        if init.name.startswith("widest") and int(init.name.split(".")[1]) >= levels:
            continue
        nodes.append(helper.make_node("Identity", [init.name], [f"{init.name}.out"]))
        outputs.append(helper.make_tensor_value_info(f"{init.name}.out", init.data_type, [None]))
    nodes.append(helper.make_node("Gather", [names.ITEM_NODE, ITEM_NUMBER], ["node"]))
    outputs.append(helper.make_tensor_value_info("node", onnx.TensorProto.INT32, ["n"]))
    wanted = [helper.make_tensor_value_info(ITEM_NUMBER, onnx.TensorProto.INT64, ["n"])]
    graph = helper.make_graph(nodes, "reader", wanted, outputs, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def other() -> onnx.ModelProto:
    """A graph that reads no table."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "other", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_small_bundle(folder: Path, tokenizer: Tokenizer) -> Path:
    """A bundle with a graph that reads the trie and one that does not."""
    folder.mkdir()
    (folder / TOKENIZER_FILE).write_bytes(tokenizer.path.read_bytes())
    Catalog.create(IDS, tokenizer).save(folder / CATALOG_FILE)
    (folder / RECOMMEND_FILE).write_bytes(reader(TableFile(folder / CATALOG_FILE)).SerializeToString())
    (folder / OTHER_GRAPH).write_bytes(other().SerializeToString())
    (folder / WEIGHTS_FILE).write_bytes(b"weights")
    return signed(folder)


def signed(folder: Path) -> Path:
    """Write the manifest that goes with a folder's files."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_FILE}
    (folder / MANIFEST_FILE).write_text(manifest(files).to_json(), encoding="utf-8")
    return folder


def read_by_graph(bundle: Path) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(bundle / RECOMMEND_FILE), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    values = session.run(outputs, {ITEM_NUMBER: np.array([1], dtype=np.int64)})
    return {name.removesuffix(".out"): value for name, value in zip(outputs, values, strict=True)}


def require_whole(bundle: Path) -> Catalog:
    """The bundle loads, and its graph reads just what its catalog says."""
    catalog = Bundle.load(bundle).catalog
    expected = names.search_tables(catalog.trie, catalog.end_token)
    read = read_by_graph(bundle)
    assert len(read) == len(names.SEARCH_TABLES) - (names.LEVELS - LEVELS) + 1
    for name, value in read.items():
        if name != "node":
            assert np.array_equal(value, expected[name]), name
    return catalog


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
