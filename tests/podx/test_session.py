"""ONNX Runtime sessions: what was asked for is what runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from podx.errors import BundleError, ConfigError, DeviceError
from podx.graphs import session as sessions
from podx.graphs.session import CPU, CUDA, FixedSession, GraphSession, SessionOptions, resolve_device, select_rows
from tests.podx.graphs import save_scaled, save_sum, save_table

WITHOUT_CUDA = ["CPUExecutionProvider"]
WITH_CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("asked", "providers", "gpu", "got"),
    [
        ("auto", WITHOUT_CUDA, True, CPU),
        ("auto", WITH_CUDA, True, CUDA),
        ("auto", WITH_CUDA, False, CPU),
        ("cpu", WITH_CUDA, True, CPU),
        ("cuda", WITH_CUDA, False, CUDA),  # the session then raises: what was asked for runs, or an error
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, asked: str, providers: list[str], gpu: bool, got: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(sessions, "has_gpu", lambda: gpu)
    assert resolve_device(asked) == got


@pytest.mark.parametrize(("status", "count", "seen"), [(0, 2, True), (0, 0, False), (100, 0, False)])
def test_the_driver_counts_gpus(monkeypatch: pytest.MonkeyPatch, status: int, count: int, seen: bool) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's name)
            return status

        def cuDeviceGetCount(self, pointer: object) -> int:  # noqa: N802
            pointer._obj.value = count  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(sessions.ctypes, "CDLL", lambda name: Driver())
    assert sessions.has_gpu() is seen


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(sessions.ctypes, "CDLL", missing)
    assert not sessions.has_gpu()


def test_bf16_on_arm_is_a_setting_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.platform, "machine", lambda: "aarch64")
    key = "mlas.enable_gemm_fastmath_arm64_bfloat16"
    assert sessions._settings(SessionOptions(arm_bf16=True)).get_session_config_entry(key) == "1"
    with pytest.raises(RuntimeError, match=key):
        sessions._settings(SessionOptions()).get_session_config_entry(key)


@pytest.mark.parametrize(("device", "machine"), [(CPU, "x86_64"), (CUDA, "aarch64")])
def test_bf16_on_arm_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch, device: str, machine: str) -> None:
    monkeypatch.setattr(sessions.platform, "machine", lambda: machine)
    with pytest.raises(ConfigError, match=f"for {device} on {machine}: leave it out"):
        SessionOptions(device, arm_bf16=True)


def test_cuda_without_a_provider_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: WITHOUT_CUDA)
    with pytest.raises(DeviceError, match=r"podx\[gpu\]"):
        resolve_device("cuda")


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(ConfigError, match="auto, cpu or cuda, not 'gpu'"):
        resolve_device("gpu")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_a_session_that_fell_back_to_the_cpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"sum\.onnx on CPUExecutionProvider"), pytest.warns(UserWarning):
        GraphSession(save_sum(tmp_path / "sum.onnx"), SessionOptions(device=CUDA))


def test_fewer_than_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads must be 0"):
        SessionOptions(threads=-1)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x08\x12\x00" * 9])
def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"cannot load .*garbage\.onnx"):
        GraphSession(path, SessionOptions())


def test_a_graph_is_read_from_what_files_held_and_not_from_the_disk(tmp_path: Path) -> None:
    path, count = tmp_path / "table.onnx", 2_000  # small tensors are treated in a way of their own
    save_table(path, range(count), "weights.bin")
    held = {name: np.frombuffer((tmp_path / name).read_bytes(), np.uint8) for name in ("table.onnx", "weights.bin")} | {
        "empty.bin": np.zeros(0, dtype=np.uint8)
    }
    save_table(path, range(count, 2 * count), "weights.bin")
    places = {"places": np.arange(count)}
    by_path, from_memory = GraphSession(path, SessionOptions()), GraphSession(path, SessionOptions(), held)
    path.unlink()
    fixed = FixedSession(path, SessionOptions(), {"n": count}, held)
    del held
    assert by_path.run(places, by_path.outputs)["looked_up"].tolist() == list(range(count, 2 * count))
    assert from_memory.run(places, from_memory.outputs)["looked_up"].tolist() == list(range(count))
    assert fixed.run(places)["looked_up"].tolist() == list(range(count))


def test_a_missing_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot load .*nowhere\.onnx"):
        GraphSession(tmp_path / "nowhere.onnx", SessionOptions())


@pytest.fixture
def session(tmp_path: Path) -> GraphSession:
    return GraphSession(save_sum(tmp_path / "sum.onnx"), SessionOptions(threads=1, spin=False))


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_outputs_come_to_the_host_only_where_asked(session: GraphSession) -> None:
    assert (session.device, session.outputs) == (CPU, ["total", "twice"])
    outputs = session.run({"a": vector(1, 2), "b": vector(10, 20)}, to_host=["total"])
    assert isinstance(outputs["total"], np.ndarray) and outputs["total"].tolist() == [11, 22]
    assert isinstance(outputs["twice"], onnxruntime.OrtValue) and outputs["twice"].numpy().tolist() == [2, 4]


def test_what_a_run_gave_can_be_fed_again(session: GraphSession) -> None:
    first = session.run({"a": vector(1, 2), "b": vector(0, 0)}, to_host=[])
    again = session.run({"a": first["twice"], "b": vector(5, 5)}, to_host=["total", "twice"])
    assert (again["total"].tolist(), again["twice"].tolist()) == ([7, 9], [4, 8])


def test_strided_arrays_are_fed_as_they_read(session: GraphSession) -> None:
    outputs = session.run({"a": np.arange(6, dtype=np.float32)[::2], "b": vector(0, 0, 0)}, to_host=["total"])
    assert outputs["total"].tolist() == [0, 2, 4]


def test_strided_arrays_are_fed_as_they_read_where_all_comes_to_the_host(session: GraphSession) -> None:
    outputs = session.run({"a": np.arange(6, dtype=np.float32)[::2], "b": vector(0, 0, 0)}, session.outputs)
    assert (outputs["total"].tolist(), outputs["twice"].tolist()) == ([0, 2, 4], [0, 4, 8])


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    session = GraphSession(save_scaled(tmp_path / "scaled.onnx"), SessionOptions(threads=1))
    assert session.run({"a": vector(1, 2)}, session.outputs)["product"].tolist() == [2, 4]
    assert session.run({"a": vector(1, 2), "factor": vector(5)}, session.outputs)["product"].tolist() == [5, 10]
    assert session.run({"a": vector(1, 2)}, session.outputs)["product"].tolist() == [2, 4]  # and is not remembered


def test_rows_are_selected_on_the_device() -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.arange(6).reshape(3, 2))
    rows = select_rows(value, np.array([2, 0]), CPU)
    assert rows.numpy().tolist() == [[4, 5], [0, 1]]
    assert rows.device_name() == CPU


def test_one_session_serves_many_threads(session: GraphSession) -> None:
    def total(n: int) -> list[float]:
        values = session.run({"a": np.full(50, n, np.float32), "b": np.full(50, 1, np.float32)}, ["total"])
        return values["total"].tolist()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(total, range(200))) == [[n + 1.0] * 50 for n in range(200)]
