"""The protocol between bench and engine processes, with real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from podx.errors import ConfigError, DeviceError
from podx_bench.engines import EngineContext
from podx_bench.engines.process import EngineProcess
from podx_bench.harness.child import EngineError, thread_environment
from podx_bench.workload.work import Answer, WorkItem


def test_an_engine_answers_and_is_timed_although_it_prints(
    rule_engines: str, context: EngineContext, work: list[WorkItem]
) -> None:
    with EngineProcess(f"{rule_engines}:echo", context, work) as process:
        answers, seconds = process.answer([2, 0])
        timing = process.time([[0, 1], [2, 3], [1, 1]])
    assert answers == [Answer(items=("ü", "i2")), Answer(items=("ü", "i0"))]
    assert seconds >= 0
    assert len(timing.ms) == 3 and min(timing.ms) > 0
    assert 10 < timing.peak_rss_mb < 1000
    assert 0 < process.load_s < 60


def test_a_process_ends_with_its_context(rule_engines: str, context: EngineContext, work: list[WorkItem]) -> None:
    with EngineProcess(f"{rule_engines}:echo", context, work) as process:
        assert process.status is None
    assert process.status == 0


def test_a_dying_engine_is_an_error_with_its_last_words(
    rule_engines: str, context: EngineContext, work: list[WorkItem]
) -> None:
    with EngineProcess(f"{rule_engines}:dying", context, work) as process:
        with pytest.raises(EngineError, match=r"(?s)engine rule_engines:dying died with status 7.*out of luck"):
            process.time([[0, 1]])
        with pytest.raises(EngineError, match="died with status 7"):
            process.answer([0])


def test_an_engine_that_hangs_is_stopped(rule_engines: str, context: EngineContext, work: list[WorkItem]) -> None:
    with (
        EngineProcess(f"{rule_engines}:sleeping", context, work, call_timeout=0.3) as process,
        pytest.raises(EngineError, match=r"did not finish its answer within 0 s.*--engines"),
    ):
        process.answer([0, 1])
    assert process.status is not None


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        ("cuda", DeviceError, "engine rule_engines:cuda: CUDA is not here"),
        ("short", EngineError, "0 answers to 1 requests"),
        ("text", ConfigError, "must be a podx_bench.engines.EngineKind, not str"),
        ("nothing", ConfigError, "cannot be imported"),
    ],
)
def test_an_engine_that_cannot_load_is_an_error_of_its_kind(
    engine: str,
    error: type[Exception],
    message: str,
    rule_engines: str,
    context: EngineContext,
    work: list[WorkItem],
) -> None:
    with pytest.raises(error, match=message):
        EngineProcess(f"{rule_engines}:{engine}", context, work)


def test_every_library_is_given_the_same_threads() -> None:
    quiet, spinning = thread_environment(3, spin=False), thread_environment(3, spin=True)
    assert quiet["OMP_NUM_THREADS"] == quiet["MKL_NUM_THREADS"] == quiet["OPENBLAS_NUM_THREADS"] == "3"
    assert quiet["OMP_WAIT_POLICY"] == "PASSIVE" and quiet["KMP_BLOCKTIME"] == "0"
    assert "KMP_BLOCKTIME" not in spinning


def test_the_process_of_our_engine_loads_no_torch() -> None:
    modules = "podx_bench.harness.child, podx_bench.engines.process, podx_bench.engines.runtime"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
