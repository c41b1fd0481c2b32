"""More bundles of one model in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import podx
from podx.bundle.signature import ModelShape
from podx.errors import ConfigError
from podx.graphs.catalog_search import SearchGraph
from podx.text.templates import Task
from podx_bench.engines import ENGINES, EngineContext, select
from podx_bench.engines.runtime import RuntimeEngine
from podx_bench.run import variants
from podx_bench.run.variants import load_variants, parse_variants, require_same_model, variant_kind
from podx_bench.workload.work import WorkItem


def bundle_of(items: tuple[str, ...] = ("a", "b"), prompts: int = 3, precision: str = "fp32") -> Any:
    """What is looked at in a bundle."""

    def table(names: tuple[str, ...]) -> SimpleNamespace:
        return SimpleNamespace(raw_ids=np.array([name.encode() for name in names]))

    manifest = SimpleNamespace(
        tasks=(Task.SEQUENTIAL,), prompts=prompts, user_prompts=0, max_history=20, whole_word_rows=512, scheme="paper",
        shape=ModelShape(2, 4, 16, 100), precision=precision,
    )  # fmt: skip
    users = SimpleNamespace(ids=table(("u",)))
    return SimpleNamespace(
        path=Path("folder"), manifest=manifest, catalog=SimpleNamespace(items=table(items)), users=users
    )


def test_variants_are_names_and_folders() -> None:
    assert parse_variants(["int8=a/b", "fp16-wide=c=d"]) == {"int8": Path("a/b"), "fp16-wide": Path("c=d")}
    assert parse_variants(()) == {}


@pytest.mark.parametrize("text", ["int8", "=folder", "int8=", "in t8=folder"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--variant must be NAME=FOLDER"):
        parse_variants([text])


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="--variant int8 is given twice"):
        parse_variants(["int8=a", "int8=b"])


def test_a_variant_cannot_take_the_name_of_another_engine() -> None:
    with pytest.raises(ConfigError, match="would be engine podx-vocabulary"):
        load_variants({"vocabulary": Path("x")}, bundle_of())


def test_a_variant_of_another_model_is_refused_with_what_differs() -> None:
    require_same_model(bundle_of(precision="int8"), bundle_of(), "int8")
    with pytest.raises(ConfigError, match=r"--variant int8 is not of the same model .*\(prompts, items differ\)"):
        require_same_model(bundle_of(("a", "c"), prompts=5), bundle_of(), "int8")
    with pytest.raises(ConfigError, match="items differ"):
        require_same_model(bundle_of(("a", "b", "c")), bundle_of(), "int8")


def test_a_variant_is_an_engine_compared_with_podx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants.Bundle, "load", lambda folder: bundle_of(precision="int8"))
    (name,) = loaded = load_variants({"int8": Path("folder")}, bundle_of())
    kind = variant_kind(name, loaded[name])
    assert (kind.name, kind.reference, kind.loads, kind.bundle) == ("podx-int8", "podx", "podx", Path("folder"))
    assert kind.tasks == ENGINES["podx"].tasks and "int8" in kind.summary
    found = select(["podx-int8", "podx"], has_checkpoint=False, variants={name: kind})
    assert list(found) == ["podx-int8", "podx"]
    assert list(select(["podx"], has_checkpoint=False, variants={name: kind})) == ["podx", "podx-int8"]
    with pytest.raises(ConfigError, match="unknown engine 'podx-int8'"):
        select(["podx-int8"], has_checkpoint=False)


class Recorder:
    """Stands for a recommender and remembers what it was asked."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    def recommend_batch(self, requests: list[Any], k: int, search: Any, batch_size: int) -> list[list[Any]]:
        self.batch_size = batch_size
        return [[podx.Recommendation("item", 0.0)] for _ in requests]


@pytest.mark.parametrize("graph", ["auto", "steps"])
def test_the_step_graphs_are_asked_for_by_name(
    graph: SearchGraph, context: EngineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def load(_bundle: Path, _device: str, **options: Any) -> Recorder:
        given.append(options)
        return Recorder()

    monkeypatch.setattr(podx, "load", load)
    RuntimeEngine(context, "catalog", graph)
    tasks = [Task.SEQUENTIAL]
    assert given == [
        {"threads": 1, "spin": False, "search_graph": graph, "cuda_graph": True, "tasks": tasks, "arm_bf16": False}
    ]


@pytest.mark.parametrize(("own", "expected"), [(None, 5), (2, 2)])
def test_the_runtime_gets_all_requests_in_one_call(
    own: int | None, expected: int, context: EngineContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(podx, "load", lambda *_, **__: recorder)
    engine = RuntimeEngine(replace(context, batch_size=own), "catalog")
    answers = engine.run([WorkItem(f"u{n}", ("i",)) for n in range(5)])
    assert [answer.items for answer in answers] == [("item",)] * 5
    assert recorder.batch_size == expected
