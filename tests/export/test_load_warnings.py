"""ONNX Runtime has nothing to say when it loads a bundle's graphs, whatever language they are loaded from."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from podx.bundle import signature as sig
from podx.bundle import trie_tables as names
from podx.bundle.bundle import CATALOG_FILE, Bundle
from podx.bundle.manifest import MANIFEST_FILE, file_sha256
from podx.bundle.tables import TableFile
from podx_export.blocks.graph import values_read
from podx_export.catalog.change import CatalogChange, NewItem
from podx_export.catalog.update import update_bundle
from podx_export.search.table_initializers import table_initializer

LOAD = """
import sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 2  # warnings, ONNX Runtime's default
for path in sys.argv[1:]:
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
"""
GRAPHS = 8
OVERRIDABLE = re.compile(
    rf"Initializer ({'|'.join(spec.name for spec in sig.search_inputs())}) appears in graph inputs"
)
"""ONNX Runtime says this of every input with a default value. Only inputs without one would silence it."""


def printed_by_loading(bundle: Path) -> list[str]:
    """Lines printed while all graphs of a bundle are loaded by ONNX Runtime alone."""
    graphs = sorted(map(str, bundle.glob("*.onnx")))
    assert len(graphs) == GRAPHS
    done = subprocess.run([sys.executable, "-c", LOAD, *graphs], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line for line in (done.stdout + done.stderr).splitlines() if not OVERRIDABLE.search(line)]


def unread(path: Path) -> set[str]:
    """Initializers that no node reads."""
    graph = onnx.load(path, load_external_data=False).graph
    return {tensor.name for tensor in graph.initializer} - values_read(graph.node)


@pytest.fixture
def with_unread_tables(untrained_bundle: Path, tmp_path: Path) -> Path:
    """The bundle as version 0.1 wrote it: its graph names all tables, whether it reads them or not."""
    update_bundle(untrained_bundle, tmp_path / "old", CatalogChange(delist=["item-7"]))
    path = tmp_path / "old" / sig.RECOMMEND_FILE
    model = onnx.load(path, load_external_data=False)
    tables = TableFile(tmp_path / "old" / CATALOG_FILE)
    present = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(
        table_initializer(name, tables) for name in names.SEARCH_TABLES if name not in present
    )
    path.write_bytes(model.SerializeToString())
    manifest = Bundle.load(tmp_path / "old", verify=False).manifest
    manifest = replace(manifest, files={**manifest.files, path.name: file_sha256(path)})
    (tmp_path / "old" / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
    return tmp_path / "old"


def test_a_bundle_is_loaded_without_a_warning(untrained_bundle: Path) -> None:
    assert printed_by_loading(untrained_bundle) == []
    assert [unread(path) for path in untrained_bundle.glob("*.onnx")] == [set()] * GRAPHS


def test_so_is_one_over_another_catalog(with_unread_tables: Path, tmp_path: Path) -> None:
    old = with_unread_tables
    assert unread(old / sig.RECOMMEND_FILE) == {names.widest(level) for level in range(3, names.LEVELS)}
    assert any("Removing initializer 'widest.3'" in line for line in printed_by_loading(old))
    update_bundle(old, tmp_path / "new", CatalogChange(delist=["item-8"], add=[NewItem("new", "301")]))
    assert printed_by_loading(tmp_path / "new") == []
    assert [unread(path) for path in (tmp_path / "new").glob("*.onnx")] == [set()] * GRAPHS
