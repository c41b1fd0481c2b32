"""The protocol between the bench and its processes, with real processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.harness.child import Child, ChildDiedError, EngineError, run_in_child

SERVED = '''
"""What the tests' processes do."""
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.harness.child import tell


@dataclass(frozen=True)
class Numbers:
    task: Task
    values: tuple[float, ...]
    path: Path


class Served:
    def __init__(self, numbers: Numbers, factor: int = 2) -> None:
        print("a library that prints")
        if factor == 0:
            raise ConfigError("zero will not do")
        self.numbers, self.factor = numbers, factor

    def scaled(self, more: tuple[int, ...]) -> Numbers:
        assert isinstance(self.numbers.path, Path) and isinstance(more, tuple)
        values = (*self.numbers.values, *more)
        return Numbers(self.numbers.task, tuple(self.factor * value for value in values), self.numbers.path)

    def busy(self) -> float:
        tell("begin")
        tell("end")
        return float(np.float32(0.5))

    def array(self) -> list[int]:
        return np.arange(3)

    def sleep(self) -> None:
        time.sleep(60)

    def die(self) -> None:
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(7)

    def fail(self) -> None:
        raise ValueError("a fault of ours")


def environment(name: str) -> str | None:
    return os.environ.get(name)
'''


@dataclass(frozen=True)
class Numbers:
    task: Task
    values: tuple[float, ...]
    path: Path


NUMBERS = Numbers(Task.TOPN, (1.5,), Path("a/b"))
NAMES = {"name": "the served process", "advice": "ask for less"}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "served_by_tests.py").write_text(SERVED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "served_by_tests"


def test_typed_values_go_there_and_come_back(served: str) -> None:
    said: list[str] = []
    with Child(f"{served}:Served", NUMBERS, 3, **NAMES, tell=said.append) as child:
        assert child.call("scaled", (2, 4), returns=Numbers) == Numbers(Task.TOPN, (4.5, 6.0, 12.0), Path("a/b"))
        assert child.call("busy", returns=float) == 0.5
        assert child.call("array", returns=list[int]) == [0, 1, 2]
        assert said == ["begin", "end"]
        assert child.status is None and 0 < child.load_s < 60
    assert child.status == 0


def test_an_error_that_a_user_can_mend_is_raised_here_and_the_process_goes_on(served: str) -> None:
    with pytest.raises(ConfigError, match="the served process: zero will not do"):
        Child(f"{served}:Served", NUMBERS, 0, **NAMES)


def test_a_death_is_told_with_status_and_last_words(served: str) -> None:
    with Child(f"{served}:Served", NUMBERS, **NAMES) as child:
        with pytest.raises(ChildDiedError, match=r"(?s)died with status 7.*ask for less.*out of luck") as caught:
            child.call("die", returns=None)
        assert caught.value.status == 7
        with pytest.raises(ChildDiedError, match="status 7"):
            child.call("busy", returns=float)


def test_a_fault_of_ours_ends_the_process_with_its_traceback(served: str) -> None:
    with (
        Child(f"{served}:Served", NUMBERS, **NAMES) as child,
        pytest.raises(EngineError, match=r"(?s)status 1.*ValueError: a fault of ours"),
    ):
        child.call("fail", returns=None)


def test_a_call_that_hangs_is_stopped(served: str) -> None:
    with (
        Child(f"{served}:Served", NUMBERS, **NAMES, timeout=0.3) as child,
        pytest.raises(EngineError, match="did not finish its sleep within 0 s and was stopped: ask for less"),
    ):
        child.call("sleep", returns=None)
    assert child.status is not None


def test_a_busy_process_is_ended_at_once(served: str) -> None:
    start = time.monotonic()
    with Child(f"{served}:Served", NUMBERS, **NAMES) as child:
        child._busy = True  # as when Ctrl-C interrupts a call
        start = time.monotonic()
    assert time.monotonic() - start < 5


def test_one_function_in_a_fresh_process_with_its_environment(served: str) -> None:
    environment = {**os.environ, "OF_THE_TEST": "here"}
    found = run_in_child(f"{served}:environment", "OF_THE_TEST", returns=str | None, **NAMES, environment=environment)
    assert found == "here"
