"""The peers' wiring: conversions kept by content, another interpreter, the work that is put to them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

import podx_bench
from podx.bundle.bundle import Bundle
from podx.errors import ConfigError, DeviceError
from podx.text.templates import Task
from podx_bench.engines import ENGINES, PEERS, EngineContext, select
from podx_bench.engines.process import EngineProcess
from podx_bench.peers import place
from podx_bench.peers.openvino_graph import require_runnable
from podx_bench.peers.prepare import cache_folder, content_key, made_once, prepare_peer
from podx_bench.peers.searching import Hypotheses, Plan, in_batches, pad
from podx_bench.workload.work import Answer, WorkItem

PACKAGE = Path(podx_bench.__file__).parent
BENCH_SIDE = "prepare.py"
SHARED_WITH_EAGER = {
    "train/podx_train/eager/prefixes.py": "podx_train.eager.prefixes",
    "train/podx_train/model/ceiling.py": "podx_train.model.ceiling",
}
"""What holds Optimum to the catalog, as it does the eager engines; they need nothing else of their package."""

FOREIGN_ENGINE = '''
"""An engine that tells which interpreter runs it, and what its context says."""
import os
from dataclasses import replace
from pathlib import Path

from podx_bench.engines import EngineKind
from podx_bench.workload.work import Answer


class Telling:
    def __init__(self, context):
        self._context = context

    def run(self, requests):
        told = (os.environ.get("FOREIGN", "own"), str(self._context.checkpoint))
        return [Answer(items=told) for _ in requests]


foreign = EngineKind(
    "foreign",
    "tells who runs it",
    Telling,
    prepare=lambda context: replace(context, checkpoint=Path("converted")),
    interpreter=lambda: Path(os.environ["FOREIGN_PYTHON"]),
)
'''


@pytest.fixture
def foreign_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine whose interpreter is a script that leaves a mark and runs this one."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nFOREIGN=marked exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "foreign_engine.py").write_text(FOREIGN_ENGINE, encoding="utf-8")
    monkeypatch.setenv("FOREIGN_PYTHON", str(python))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    monkeypatch.syspath_prepend(str(folder))
    return "foreign_engine:foreign"


# --- conversions are kept by content ------------------------------------------------------------------------------


def test_a_key_follows_from_bytes_and_words_not_from_places(tmp_path: Path) -> None:
    first, copy, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"weightz")
    key = content_key([first], "1")
    assert key == content_key([copy], "1")
    assert len({key, content_key([other], "1"), content_key([first], "2"), content_key([first])}) == 4


def test_where_one_file_ends_is_part_of_the_key(tmp_path: Path) -> None:
    for name, content in (("a", b"12"), ("b", b"3"), ("c", b"1"), ("d", b"23")):
        (tmp_path / name).write_bytes(content)
    pairs = ([tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"])
    assert content_key(pairs[0]) != content_key(pairs[1])
    assert content_key([], "ab") != content_key([], "a", "b")


def test_a_conversion_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "model").write_text("weights")

    wanted = tmp_path / "key" / "peer"
    assert made_once(wanted, make) == made_once(wanted, make) == wanted
    assert len(made) == 1 and (wanted / "model").read_text() == "weights"
    assert [path.name for path in wanted.parent.iterdir()] == ["peer"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        made_once(tmp_path / "key" / "peer", make)
    assert list((tmp_path / "key").iterdir()) == []


def test_a_conversion_that_another_run_made_meanwhile_will_do(tmp_path: Path) -> None:
    wanted = tmp_path / "peer"

    def make(folder: Path) -> None:
        (folder / "model").write_text("ours")
        wanted.mkdir()
        (wanted / "model").write_text("theirs")

    assert (made_once(wanted, make) / "model").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["peer"]


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "podx" / "peers"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "podx" / "peers"


# --- an environment of their own ----------------------------------------------------------------------------------


def test_a_missing_environment_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere/bin/python: run `make peers`.*PODX_PEERS.*--engines"):
        select(("encode-once", "ctranslate2"), has_checkpoint=True)
    assert place.versions() == {}
    assert list(select(("encode-once", "podx"), has_checkpoint=True)) == ["encode-once", "podx"]


def test_the_variable_names_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    assert ENGINES["optimum"].interpreter is not None and ENGINES["optimum"].interpreter() == python
    assert ENGINES["podx"].interpreter is None
    monkeypatch.delenv(place.VARIABLE)
    assert place.environment() == PACKAGE.parents[1] / ".venv-peers"


def test_versions_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    for name, version in (("ctranslate2", "4.8.5"), ("unrelated", "1.0")):
        folder = tmp_path / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    assert place.versions() == {"ctranslate2": "4.8.5"}


def test_an_engine_runs_on_the_interpreter_and_context_of_its_kind(
    foreign_engine: str, context: EngineContext, work: list[WorkItem]
) -> None:
    with EngineProcess(foreign_engine, context, work) as process:
        answers, _ = process.answer([0, 1])
    assert answers == [Answer(items=("marked", "converted"))] * 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"device": "cuda"}, DeviceError, "ctranslate2 is measured on the CPU only"),
        ({"checkpoint": None}, ConfigError, "ctranslate2 needs --checkpoint"),
    ],
)
def test_what_no_peer_can_do_is_an_error(
    changes: dict[str, object], error: type[Exception], message: str, context: EngineContext
) -> None:
    with pytest.raises(error, match=message):
        prepare_peer("ctranslate2", replace(context, **changes))  # type: ignore[arg-type]


def test_peers_measure_speed_alone_and_say_what_they_lack() -> None:
    assert {kind.name for kind in PEERS} == place.MODULES.keys()
    for kind in PEERS:
        assert kind.speed_only and kind.needs_checkpoint and ENGINES[kind.name] is kind
        assert "no prompt vectors, whole-word embeddings or catalog" in kind.summary


def test_optimum_runs_the_pod_model_and_takes_part_in_accuracy() -> None:
    kind = ENGINES["optimum"]
    assert not kind.speed_only and kind.reference == "encode-once" and kind.prepare is not None
    with pytest.raises(ConfigError, match="optimum cannot run a one-pass model"):
        select(("optimum",), has_checkpoint=True, one_pass=True)


def _imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_peers_side_imports_neither_the_training_half_nor_the_bench_side() -> None:
    shared = [
        PACKAGE / name
        for name in (
            "harness/child.py",
            "engines/process.py",
            "workload/work.py",
        )
    ]
    own = [path for path in (PACKAGE / "peers").glob("*.py") if path.name != BENCH_SIDE]
    assert len(own) >= 5
    for path in (*shared, *own, *(PACKAGE.parents[1] / name for name in SHARED_WITH_EAGER)):
        foreign = [name for name in _imports(path) if name.startswith(("podx_train", "podx_export"))]
        foreign = [name for name in foreign if name not in SHARED_WITH_EAGER.values()]
        foreign += [name for name in _imports(path) if name == "podx_bench.peers.prepare"]
        assert foreign == [], path.name


# --- the work that is put to them ---------------------------------------------------------------------------------


def _plan(batch_size: int | None) -> Plan:
    return Plan(Path(), Task.SEQUENTIAL, "cpu", threads=1, beams=2, k=1, batch_size=batch_size, steps=3)


def _recording(seen: list[np.ndarray]) -> Callable[[np.ndarray, np.ndarray], list[Hypotheses]]:
    """A search that answers each record with its own tokens."""

    def search(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[Hypotheses]:
        seen.append(input_ids)
        return [[row[: keep.sum()].tolist()] for row, keep in zip(input_ids, attention_mask, strict=True)]

    return search


def test_records_are_padded_on_the_right() -> None:
    ids, mask = pad([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_many_records_are_run_by_length_and_answered_in_their_order() -> None:
    sources = [[number] * length for number, length in enumerate((7, 2, 9, 2, 8), start=1)]
    seen: list[np.ndarray] = []
    assert in_batches(_recording(seen), _plan(2))(sources) == [[source] for source in sources]
    assert [batch.shape for batch in seen] == [(2, 2), (2, 8), (1, 9)]
    seen.clear()
    assert in_batches(_recording(seen), _plan(None))(sources) == [[source] for source in sources]
    assert [batch.shape for batch in seen] == [(5, 9)]


@pytest.mark.parametrize(
    ("changes", "precision", "error", "message"),
    [
        ({"device": "cuda"}, "fp32", DeviceError, "openvino is measured on the CPU only"),
        ({"beams": 50}, "fp32", ConfigError, "use --beams 20 and -k 10, or leave openvino out"),
        ({"k": 5}, "fp32", ConfigError, "makes constants of the defaults"),
        ({}, "int8", ConfigError, "this is one in int8: export it with --precision fp32"),
    ],
)
def test_openvino_says_what_it_cannot_run(
    changes: dict[str, object], precision: str, error: type[Exception], message: str, context: EngineContext
) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(precision=precision, levels=3))
    asked = replace(context, beams=20, k=10)
    require_runnable(cast(Bundle, SimpleNamespace(manifest=SimpleNamespace(precision="fp32", levels=3))), asked)
    with pytest.raises(error, match=message):
        require_runnable(cast(Bundle, bundle), replace(asked, **changes))  # type: ignore[arg-type]
