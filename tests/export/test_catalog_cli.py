"""``podx catalog``, the files it reads, and the initializers it renews."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from podx.bundle import trie_tables as names
from podx.bundle.bundle import CATALOG_FILE
from podx.bundle.signature import RECOMMEND_FILE
from podx.bundle.tables import TableFile, write_tables
from podx.errors import CatalogError, ConfigError
from podx_export.catalog.change import CatalogChange
from podx_export.catalog.update import levels_walked
from podx_export.cli import catalog as catalog_cli
from podx_export.cli.catalog import catalog_figures
from podx_export.search.table_initializers import INLINE_BYTES, LOCATION, repoint
from podx_train.checkpoint.checkpoint import load_checkpoint
from tests.export.small_bundles import LEVELS, other, reader, require_whole, write_small_bundle


@pytest.fixture
def bundle(tmp_path: Path, untrained: Path) -> Path:
    """See :func:`tests.export.small_bundles.write_small_bundle`."""
    return write_small_bundle(tmp_path / "bundle", load_checkpoint(untrained).tokenizer)


# --- initializers ---------------------------------------------------------------------------------------------------


def test_initializers_follow_the_tables(bundle: Path) -> None:
    tables = TableFile(bundle / CATALOG_FILE)
    model = onnx.load(str(bundle / RECOMMEND_FILE), load_external_data=False)
    assert levels_walked(model) == LEVELS
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        place = tables.place(tensor.name)
        assert tuple(tensor.dims) == place.shape
        if place.length <= INLINE_BYTES:
            assert not where and np.array_equal(onnx.numpy_helper.to_array(tensor), tables.map(tensor.name))
        else:
            assert where == {LOCATION: CATALOG_FILE, "offset": str(place.offset), "length": str(place.length)}


def test_only_initializers_over_the_file_are_renewed(bundle: Path) -> None:
    model = onnx.load(str(bundle / RECOMMEND_FILE), load_external_data=False)
    own = onnx.numpy_helper.from_array(np.zeros(0, dtype=np.float32), "empty")
    elsewhere = onnx.TensorProto(name="weight", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    elsewhere.external_data.add(key=LOCATION, value="weights.bin")
    model.graph.initializer.extend([own, elsewhere])
    repoint(model, TableFile(bundle / CATALOG_FILE))
    assert list(model.graph.initializer)[-2:] == [own, elsewhere]


def test_a_file_without_a_table_of_the_graph_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(str(bundle / RECOMMEND_FILE), load_external_data=False)
    write_tables(tmp_path / CATALOG_FILE, {"child_start": np.zeros(2, dtype=np.int32)})
    with pytest.raises(CatalogError, match="no table"):
        repoint(model, TableFile(tmp_path / CATALOG_FILE))


def test_a_graph_that_names_no_level_walks_all(bundle: Path) -> None:
    assert levels_walked(reader(TableFile(bundle / CATALOG_FILE), levels=2)) == 2
    assert levels_walked(other()) == names.LEVELS


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_commands(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").write_bytes("\ufeffitem 1\r\n\nitem 2".encode())
    (tmp_path / "new.tsv").write_text("a, b\nplain\t88\n\n", encoding="utf-8")
    (tmp_path / "new.csv").write_text('"a, b",77\nplain\n', encoding="utf-8")
    catalog_cli.update_command(bundle, tmp_path / "new", delist=tmp_path / "gone", add=tmp_path / "new.csv")
    assert "30 of 32 items can be recommended" in capsys.readouterr().out
    catalog = require_whole(tmp_path / "new")
    assert catalog.items.number("a, b") == 31 and [catalog.text(n) for n in (31, 32)] == ["77", "32"]
    catalog_cli.show_command(tmp_path / "new", as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert (figures["items"], figures["listed"], figures["nodes"]) == (32, 30, catalog.trie.node_count)
    assert figures == catalog_figures(catalog, tmp_path / "new" / CATALOG_FILE)
    levels = figures["levels"]
    assert sum(level["nodes"] for level in levels) < figures["nodes"] and levels[0]["nodes"] == 1
    assert levels[0]["children_mean"] == levels[0]["children_most"] == levels[1]["nodes"]
    catalog_cli.show_command(bundle)
    assert "that can be recommended" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["a,b,c\n", ",text\n", '"open\n', "a\tb\n\tc\n"])
def test_a_list_of_new_items_that_cannot_be_read_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(CatalogError, match=r"new\.csv, line \d is no raw id"):
        CatalogChange.read(None, None, tmp_path / "new.csv")


def test_without_a_tab_in_the_first_line_commas_separate(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a\nb\tc\n")
    assert [item.raw_id for item in CatalogChange.read(None, None, tmp_path / "new.csv").add] == ["a", "b\tc"]


def test_a_list_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match="not a text file"):
        CatalogChange.read(tmp_path / "list", None, None)


def test_options_that_do_not_go_together_are_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either --out FOLDER or --in-place"):
        catalog_cli.update_command(bundle, delist=tmp_path / "gone")
    with pytest.raises(ConfigError, match="either --out FOLDER or --in-place"):
        catalog_cli.update_command(bundle, tmp_path / "new", in_place=True, delist=tmp_path / "gone")
    with pytest.raises(ConfigError, match="nothing to change"):
        catalog_cli.update_command(bundle, tmp_path / "new")
