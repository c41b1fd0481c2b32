"""Options and engine names that cannot be meant."""

from __future__ import annotations

import time
from typing import Any

import pytest

from podx.errors import ConfigError
from podx_bench.engines import DEFAULT_ENGINES, ENGINES, select
from podx_bench.harness.options import parse_numbers
from podx_bench.harness.terminal import TELL_SECONDS, plain_lines
from podx_bench.run.options import DEFAULT_ACCURACY_USERS, BenchOptions
from podx_bench.run.run import slices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed_users": 0}, "--speed-users must be at least 1"),
        ({"users": 0}, "--users must be above zero"),
        ({"max_minutes": -1.0}, "--max-minutes must be above zero"),
        ({"batch_sizes": ()}, "--batch-sizes"),
        ({"batch_sizes": (0, 1)}, "--batch-sizes"),
        ({"device": "tpu"}, "unknown --device 'tpu': choose among cpu, cuda"),
        ({"threads": -1}, "--threads"),
        ({"k": 30}, "-k 30 and --beams 20 conflict"),
        ({"k": 5}, "HR@10 needs -k 10"),
        ({"speed": False, "accuracy": False}, "nothing to measure"),
        ({"source_length": 0}, "--source-length must be above zero"),
        ({"source_length": 41, "speed": False}, "--source-length and --no-speed conflict"),
        ({"stream_users": 0}, "--stream-users must be above zero"),
        ({"stream_batch": 0}, "--stream-batch must be at least 1"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchOptions(**options)


def test_few_answers_are_fine_without_accuracy() -> None:
    assert BenchOptions(k=5, accuracy=False).k == 5


def test_a_stream_alone_is_enough_to_measure() -> None:
    options = BenchOptions(speed=False, accuracy=False, stream_users=8)
    assert options.work_users == 0


def test_requests_of_one_length_are_chosen_apart() -> None:
    assert BenchOptions(source_length=41, accuracy=False).work_users == 0
    assert BenchOptions(source_length=41, accuracy_users=3, speed_users=64).work_users == 3


def test_users_that_requests_are_needed_for() -> None:
    assert BenchOptions(accuracy_users=None).work_users is BenchOptions(accuracy_users=0).work_users is None
    assert BenchOptions().work_users == DEFAULT_ACCURACY_USERS
    assert BenchOptions(users=10, speed_users=64).work_users == 10
    assert BenchOptions(users=10, speed_users=64).timed_users == 10
    assert BenchOptions(users=10, accuracy_users=80).scored_users == 10
    assert BenchOptions(users=500, accuracy_users=5, speed_users=64).work_users == 64
    assert BenchOptions(users=500).work_users == 500
    assert BenchOptions(users=500, accuracy_users=80).scored_users == 80
    assert BenchOptions(users=10, speed=False).work_users == 10
    assert BenchOptions(accuracy=False, speed_users=7).work_users == 7
    assert BenchOptions(users=3, accuracy=False, speed_users=7).work_users == 3


@pytest.mark.parametrize("text", ["", "a", "1;2", "1,x", "-1"])
def test_numbers_must_be_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--batch-sizes must be whole numbers"):
        parse_numbers(text, "--batch-sizes")


def test_numbers_are_sorted_and_single() -> None:
    assert parse_numbers("32, 1,8,1", "--batch-sizes") == (1, 8, 32)


def test_unknown_engines_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown engine 'tensorrt': choose among .*encode-once"):
        select(["podx", "tensorrt"], has_checkpoint=True)
    with pytest.raises(ConfigError, match="cannot be imported"):
        select(["no_such_module_here:engine"], has_checkpoint=True)
    with pytest.raises(ConfigError, match="--engines is empty"):
        select([], has_checkpoint=True)


def test_eager_engines_need_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"as-published, encode-once.* need --checkpoint"):
        select(None, has_checkpoint=False)
    assert list(select(["podx"], has_checkpoint=False)) == ["podx"]


def test_names_and_references_of_engines_are_consistent() -> None:
    assert all(name == kind.name for name, kind in ENGINES.items())
    assert set(DEFAULT_ENGINES) <= set(ENGINES)
    assert {kind.reference for kind in ENGINES.values()} <= {None, *ENGINES}


def test_time_is_shared_out_in_equal_parts() -> None:
    assert slices((0.0, 12.0), 3) == [(0.0, 4.0), (4.0, 8.0), (8.0, 12.0)]
    assert slices((5.0, float("inf")), 2) == [(5.0, float("inf"))] * 2


def test_progress_in_a_log_file_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tell = plain_lines()
    for text, passed in (("first", 1.0), ("too soon", TELL_SECONDS), ("second", 0.0)):
        tell(text)
        now[0] += passed
    assert capsys.readouterr().err.splitlines() == ["first", "second"]
