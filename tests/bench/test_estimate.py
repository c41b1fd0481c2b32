"""What a run will do and how long it will take."""

from __future__ import annotations

import numpy as np
import pytest

from podx.text.templates import Task
from podx_bench.engines import ENGINES
from podx_bench.harness.resources import about
from podx_bench.latency.speed import Cell
from podx_bench.run.options import BenchOptions
from podx_bench.run.plan import TaskPlan, describe_plan, estimated_seconds, user_count
from podx_bench.workload.scenarios import Workload

NONE = np.zeros(100, dtype=np.int64)
OPTIONS = BenchOptions(batch_sizes=(1, 8), speed_users=4, eager_users=10)


def plan(task: Task, tokens: float) -> TaskPlan:
    scored = Workload(task, (), NONE, NONE)
    object.__setattr__(scored, "requests", (None,) * 100)
    return TaskPlan(task, (), scored, Cell(task, 1, 4), None, tokens)


def test_users_of_an_engine_are_those_of_its_calls() -> None:
    sequential = plan(Task.SEQUENTIAL, 40.0)
    timed = (4 + 1.5) + (8 + 12)
    assert user_count(sequential, ENGINES["podx"], OPTIONS) == timed + 100
    assert user_count(sequential, ENGINES["encode-once"], OPTIONS) == timed + 10
    assert user_count(sequential, ENGINES["ctranslate2"], OPTIONS) == timed  # its accuracy is not measured
    assert user_count(plan(Task.EXPLANATION, 40.0), ENGINES["podx-steps"], OPTIONS) == 0


def test_other_tasks_are_scaled_by_the_length_of_their_inputs() -> None:
    kinds = {name: ENGINES[name] for name in ("podx", "encode-once")}
    plans = [plan(Task.SEQUENTIAL, 40.0), plan(Task.TOPN, 400.0)]
    seconds = estimated_seconds(plans, kinds, OPTIONS, {"podx": (2.0, 0.01), "encode-once": (5.0, 0.1)})
    assert seconds == pytest.approx(2 * (2 + 5) + (125.5 * 0.01 + 35.5 * 0.1) * (1 + 10))
    assert [about(30.0), about(80.0), about(250.0)] == ["less than a minute", "about 1 minute", "about 4 minutes"]


def test_the_plan_is_said_in_sentences() -> None:
    kinds = {name: ENGINES[name] for name in ("podx", "encode-once")}
    assert describe_plan([plan(Task.SEQUENTIAL, 40.0)], kinds, OPTIONS) == [
        "sequential on podx, encode-once.",
        "Speed: 4 users in batches of 1 and 8, 3 rounds.",
        "Accuracy: 100 users (--accuracy-users), encode-once on the first 10 (--eager-users).",
    ]
