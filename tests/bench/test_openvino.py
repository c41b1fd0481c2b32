"""OpenVINO on the graph that podx runs: the same items. Skipped without the peers' environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle.bundle import Bundle
from podx.text.templates import Task
from podx_bench.engines.process import EngineProcess
from podx_bench.engines.runtime import batch_method, list_requests
from podx_bench.workload.work import WorkItem
from podx_export.pipeline import write_bundle
from podx_train.checkpoint.checkpoint import load_checkpoint
from tests.bench.world import BEAMS, K, Made, context_of
from tests.export.one_pass_world import CODES, one_pass_world, write_one_pass

REQUESTS, LONGEST = 64, 20


def random_requests(folder: Path, task: Task) -> list[WorkItem]:
    """Requests of one to :data:`LONGEST` items; what is too long to be read is not to be returned either."""
    bundle, random = Bundle.load(folder), np.random.default_rng(6)
    users, catalog = ([raw.decode() for raw in ids.raw_ids] for ids in (bundle.users.ids, bundle.catalog.items))
    requests = []
    for number in range(REQUESTS):
        items = tuple(random.permutation(catalog)[: random.integers(1, LONGEST + 1)].tolist())
        read = len(items) if task is Task.TOPN else bundle.manifest.max_history
        requests.append(WorkItem(users[number % len(users)], items[:read], items[read:]))
    return requests


@pytest.fixture(params=["numbers", "one token", "three codes"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """A model that reads and writes item numbers, and one-pass models."""
    if request.param == "numbers":
        made: Made = request.getfixturevalue("made")
        return made
    made = Made.within(tmp_path)
    source = load_checkpoint(write_one_pass(made.checkpoint, one_pass_world(CODES[request.param])))
    made.bundle.mkdir()
    write_bundle(source, source.catalog(), made.bundle)
    return made


@pytest.mark.parametrize("task", [Task.SEQUENTIAL, Task.TOPN])
def test_openvino_answers_as_podx(task: Task, model: Made, peers_environment: None) -> None:
    requests = random_requests(model.bundle, task)
    if task is Task.TOPN and Bundle.load(model.bundle).manifest.one_pass:
        requests = [replace(one, history=other.items[:3]) for one, other in zip(requests, requests[::-1], strict=True)]
    with EngineProcess("openvino", replace(context_of(model), task=task, batch_size=16), requests) as engine:
        found, _ = engine.answer(range(REQUESTS))
    recommend = batch_method(podx.load(model.bundle), task)
    for answer, wanted in zip(found, recommend(list_requests(task, requests), BEAMS), strict=True):
        scores = {one.item: one.score for one in wanted}  # of more than are asked for, as near ties may change places
        ranked = [scores.get(item, -np.inf) for item in answer.items if item is not None]
        assert len({*answer.items}) == len(ranked) == len(answer.items) == min(K, len(wanted))
        assert ranked == pytest.approx([one.score for one in wanted[:K]], abs=1e-4)
