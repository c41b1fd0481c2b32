"""One-pass models in the bench: both ranking tasks by the history, the same lists from eager PyTorch and podx."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.accuracy.options import AccuracyOptions, ModelInput
from podx_bench.accuracy.run import Model, plan_counts
from podx_bench.engines import DEFAULT_ENGINES, ENGINES, OURS, select
from podx_bench.harness.records import CONSTRAINED
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import plan_task
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_export.pipeline import write_bundle
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from tests.bench.world import Made, context_of
from tests.export.one_pass_world import CODES, one_pass_world, write_one_pass

RANKING = (Task.SEQUENTIAL, Task.TOPN)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of the sequential task alone."""
    made, world = Made.within(tmp_path_factory.mktemp("one_pass")), one_pass_world(CODES["three codes"])
    world.save(made.data)
    source = load_checkpoint(write_one_pass(made.checkpoint, world))
    made.bundle.mkdir()
    write_bundle(source, source.catalog(), made.bundle)
    return made


@pytest.mark.parametrize("task", RANKING)
def test_engines_give_the_same_lists(made: Made, task: Task) -> None:
    dataset, bundle = Dataset.load(made.data), Bundle.load(made.bundle)
    workload = build_workload(task, dataset, bundle, 12, 0)
    if task is Task.TOPN:  # the held-out item is no part of what candidates are ranked by
        for request, user, target in zip(workload.requests, workload.users, workload.targets, strict=True):
            history = [dataset.item_ids[item - 1] for item in dataset.history(int(user), "test")]
            assert request.history == tuple(history[-8:])
            assert dataset.item_ids[target - 1] in request.items and dataset.item_ids[target - 1] not in history
    context = replace(context_of(made), task=task)
    engines = "encode-once", "podx", "podx-steps", "podx-numbers"
    answers = [ENGINES[name].make(context).run(workload.requests) for name in engines]
    assert answers == answers[:1] * len(engines) and all(len(answer.items) == 10 for answer in answers[0])


def test_what_is_measured(made: Made) -> None:
    dataset, bundle = Dataset.load(made.data), Bundle.load(made.bundle)
    assert choose_tasks(bundle, dataset, None) == RANKING
    model = Model(ModelInput("one", made.bundle, made.data), bundle, "digest", dataset)
    counts = plan_counts(model, AccuracyOptions())
    assert counts == {(task, CONSTRAINED): [dataset.user_count] for task in RANKING}
    plan = plan_task(Task.SEQUENTIAL, dataset, bundle, BenchOptions(stream_users=4))
    assert plan.streamed is not None and plan.streamed.decoding_steps == 3  # no end of sequence
    kinds = select(None, has_checkpoint=True, one_pass=True)
    assert OURS in kinds and set(DEFAULT_ENGINES) - set(kinds) == {"encode-once-unconstrained"}
    with pytest.raises(ConfigError, match="podx-vocabulary cannot run a one-pass model"):
        select(["podx", "podx-vocabulary"], has_checkpoint=True, one_pass=True)
