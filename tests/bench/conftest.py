"""Small worlds for the bench's tests: a dataset by hand, an engine that answers by rule, results by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.engines import EngineContext
from podx_bench.harness.records import Results
from podx_bench.peers import place
from podx_bench.workload.work import WorkItem
from podx_train.data.dataset import Dataset
from podx_train.data.folder import ExplanationRecord
from tests.bench.records import ranking_record, speed_record
from tests.bench.world import Made, make_world
from tests.conftest import made_once

RULE_ENGINES = '''
"""Engines of the tests: they answer by rule."""
import os
import sys
import time

from podx.errors import DeviceError
from podx_bench.engines import EngineKind
from podx_bench.workload.work import Answer


class Echo:
    """Answers with the request's own items, last first; prints as libraries do."""

    def __init__(self, context):
        print("a library that prints to stdout")
        self._k = context.k

    def run(self, requests):
        print("noise")
        return [Answer(items=tuple(reversed(request.items))[: self._k]) for request in requests]


class Short(Echo):
    def run(self, requests):
        return super().run(requests)[1:]


class Dying(Echo):
    def run(self, requests):
        if len(requests) > 1:
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(7)
        return super().run(requests)


class Sleeping(Echo):
    def run(self, requests):
        if len(requests) > 1:
            time.sleep(60)
        return super().run(requests)


def no_device(context):
    raise DeviceError("CUDA is not here: use --device cpu")


echo = EngineKind("echo", "repeats the request", Echo)
short = EngineKind("short", "forgets a request", Short)
dying = EngineKind("dying", "dies on batches", Dying)
sleeping = EngineKind("sleeping", "sleeps on batches", Sleeping)
cuda = EngineKind("cuda", "wants a GPU", no_device)
text = "not an engine"
'''


@pytest.fixture
def rule_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with engines that answer by rule, importable here and in engine processes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "rule_engines.py").write_text(RULE_ENGINES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    monkeypatch.syspath_prepend(str(folder))
    return "rule_engines"


@pytest.fixture
def context(tmp_path: Path) -> EngineContext:
    """A context whose folders the rule engines never look at."""
    return EngineContext(
        bundle=tmp_path / "bundle",
        checkpoint=None,
        task=Task.SEQUENTIAL,
        device="cpu",
        threads=1,
        spin=False,
        beams=20,
        k=10,
    )


@pytest.fixture
def work() -> list[WorkItem]:
    """Four requests."""
    return [WorkItem(f"u{n}", (f"i{n}", "ü"), exclude=("old",) * n) for n in range(4)]


def make_dataset(scheme: str = "paper") -> Dataset:
    """Three users, twelve items. Test items: 5, 7, 2; training parts: [1, 2, 3], [1, 2], [1, 9]."""
    sequences = [[1, 2, 3, 4, 5], [1, 2, 6, 7], [1, 9, 11, 2]]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int32)
    records = [ExplanationRecord(1, 5, "good sound", "sound"), ExplanationRecord(2, 7, "fine cable", "cable")]
    return Dataset(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=offsets,
        user_ids=["carol", "alice", "bob"],
        item_ids=[f"item-{n}" for n in range(1, 13)],
        test_negatives=np.array([[6, 8, 10], [8, 9, 10], [4, 5, 6]], dtype=np.int32),
        explanations={"train": [], "val": [], "test": records},
        scheme=scheme,
    )


@pytest.fixture
def dataset() -> Dataset:
    """See :func:`make_dataset`."""
    return make_dataset()


@pytest.fixture
def canned() -> Results:
    """Results of a run in which the engine *as-published* was asked for and never measured."""
    return Results(
        label="Beauty <paper>",
        environment={
            "cpu": "Some CPU", "cores": 2, "usable_cores": 2, "memory_gb": 16.0, "gpu": None, "device": "cpu",
            "threads": 2, "os": "Linux", "python": "3.11", "podx": "0.1.0", "podx_commit": None,
            "packages": {"numpy": "2.0"},
        },
        options={
            "tasks": ["sequential"], "engines": ["as-published", "encode-once", "podx"], "batch_sizes": [1, 32],
            "speed": True, "accuracy": True, "beams": 20, "k": 10,
        },
        model={"parameters": 1000, "precision": "fp32", "prompts": 3, "best_epoch": 4, "parity": {"requests": 16}},
        dataset={"name": "Beauty", "scheme": "paper", "users": 22363, "items": 12101, "interactions": 198502},
        engines={"as-published": "one", "encode-once": "two", "podx": "three", "popularity": "learns nothing"},
        speed=(speed_record("encode-once", 200.0), speed_record("podx", 40.0)),
        accuracy=(ranking_record("popularity", 0.0115), ranking_record("podx", 0.0443)),
        notes=("sequential: the time ended",),
    )  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Data, checkpoint and bundle that the tests of real engines share; they write nothing into them."""
    return Made.within(made_once(tmp_path_factory, "bench-world", make_world))


@pytest.fixture(scope="session")
def peers_environment() -> None:
    """Skips where the peers' environment is missing."""
    try:
        place.interpreter()
    except ConfigError as error:
        pytest.skip(str(error))
