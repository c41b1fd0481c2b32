"""ONNX Runtime sessions: device, threads, IO binding. What was asked for is what runs, or an error."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx.errors import BundleError, ConfigError, DependencyError, DeviceError
from podx.graphs.huge_pages import in_huge_pages

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
except ImportError as error:  # neither wheel is a base dependency: they overwrite one another
    raise DependencyError(
        "ONNX Runtime is not installed: pip install 'podx[cpu]', or 'podx[gpu]' on a machine with an NVIDIA GPU"
    ) from error

Device = Literal["auto", "cpu", "cuda"]
CPU, CUDA = "cpu", "cuda"
_PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_ARM = ("aarch64", "arm64")
_ERRORS_ONLY = 3
_ONE_ROW = ort.OrtValue.ortvalue_from_numpy(np.ones(1, dtype=np.int64))
_ELEMENT_TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(bool)": np.bool_}
_LOAD_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
"""What a graph that cannot be loaded may raise; ONNX Runtime's exceptions have no common base of their own."""

HeldFiles = Mapping[str, npt.NDArray[np.uint8]]
"""What the files of a folder held when it was loaded, by name."""

Feed = Any
"""A numpy array, or an OrtValue that an earlier run gave."""


def resolve_device(device: str) -> str:
    """``auto`` → ``cuda`` where ONNX Runtime has it and the machine has a GPU, else ``cpu``.

    Raises:
        DeviceError: CUDA was asked for and this ONNX Runtime has none.
        ConfigError: no such device.
    """
    if device not in ("auto", CPU, CUDA):
        raise ConfigError(f"device must be auto, cpu or cuda, not {device!r}")
    has_cuda = _PROVIDERS[CUDA] in ort.get_available_providers()
    if device == CUDA and not has_cuda:
        raise DeviceError(
            "CUDA was asked for, but this ONNX Runtime has no CUDA provider: uninstall onnxruntime and "
            "pip install 'podx[gpu]' on a machine with an NVIDIA GPU, or use device='cpu'"
        )
    if device == "auto":
        return CUDA if has_cuda and has_gpu() else CPU
    return device


def has_gpu() -> bool:
    """Whether the NVIDIA driver sees a GPU. The GPU wheel lists its CUDA provider on machines without one, too."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@dataclass(frozen=True)
class SessionOptions:
    """How graphs are run.

    Attributes:
        device: ``cpu`` or ``cuda``, resolved.
        threads: threads inside an operator; 0 lets ONNX Runtime take one per core.
        spin: threads wait busily for the next operator while a graph runs, never between runs. It makes a small batch
            about twice as fast where one graph does nearly all the work. Of graphs that take turns each has threads of
            its own, and those of one then stand in the way of the other. None: the former spins, the latter do not.
        cuda_graph: on CUDA, replay the whole search as a CUDA graph (:mod:`podx.graphs.cuda_graph`).
        arm_bf16: products of float32 in bf16, sums in float32: an Arm processor that has both is quicker so.
    """

    device: str = CPU
    threads: int = 0
    spin: bool | None = None
    cuda_graph: bool = True
    arm_bf16: bool = False

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 (one per core) or more, not {self.threads}")
        if self.arm_bf16 and (self.device != CPU or platform.machine() not in _ARM):
            raise ConfigError(
                f"arm_bf16 is for Arm processors, not for {self.device} on {platform.machine()}: leave it out"
            )


def _settings(options: SessionOptions) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = _ERRORS_ONLY
    if options.spin:
        settings.add_session_config_entry("session.force_spinning_stop", "1")  # at the end of a run
    else:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.arm_bf16:
        settings.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    return settings


def _open(
    path: Path,
    options: SessionOptions,
    settings: ort.SessionOptions,
    held: HeldFiles | None,
    **provider_options: str,
) -> Any:
    """Load a graph on the device that was asked for.

    Raises:
        BundleError: ONNX Runtime cannot load the file.
        DeviceError: ONNX Runtime fell back to another device.
    """
    if options.device == CUDA:
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        settings.add_initializer(sig.LEAST_ROWS, _ONE_ROW)
    provider = _PROVIDERS[options.device]
    graph: str | bytes = str(path)
    if held is not None:
        graph = held[path.name].tobytes()
        beside = {name: content for name, content in held.items() if name != path.name and len(content)}
        settings.add_external_initializers_from_files_in_memory(
            list(beside), list(beside.values()), list(map(len, beside.values()))
        )
    try:
        with in_huge_pages():
            session = ort.InferenceSession(graph, settings, providers=[(provider, provider_options)])
    except _LOAD_ERRORS as error:
        raise BundleError(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"{provider} was asked for but ONNX Runtime runs {path.name} on {session.get_providers()[0]}: "
            f"check the driver and CUDA libraries, or use device='cpu'"
        )
    return session


class GraphSession:
    """One graph, ready to run. Safe to call from several threads."""

    def __init__(self, path: Path, options: SessionOptions, held: HeldFiles | None = None) -> None:
        """Load a graph.

        Args:
            held: read the graph and what lies beside it from here, and nothing from the disk. ONNX Runtime copies what
                it needs of it; weights and tables that it reads from the disk itself are mapped, so that processes
                share them.

        Raises:
            BundleError: ONNX Runtime cannot load the file.
            DeviceError: ONNX Runtime fell back to another device.
        """
        self.session = _open(path, options, _settings(options), held)
        self.device = options.device
        self.inputs: list[str] = [value.name for value in self.session.get_inputs()]
        self.outputs: list[str] = [output.name for output in self.session.get_outputs()]

    def to_device(self, array: npt.NDArray[Any]) -> Any:
        """An OrtValue where the graph runs."""
        return ort.OrtValue.ortvalue_from_numpy(array, self.device)

    def run(self, feeds: Mapping[str, Feed], to_host: Sequence[str]) -> dict[str, Any]:
        """Run once.

        Args:
            feeds: every input by name.
            to_host: outputs wanted as numpy arrays; the others come as OrtValues that stay on the device.

        Returns:
            every output by name.
        """
        if set(to_host) == set(self.outputs) and all(isinstance(value, np.ndarray) for value in feeds.values()):
            values = self.session.run(self.outputs, dict(feeds))  # a binding knows no inputs with defaults
            return dict(zip(self.outputs, values, strict=True))
        binding = self.session.io_binding()
        held = []  # a bound array must outlive the run
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                held.append(np.ascontiguousarray(value))
                binding.bind_cpu_input(name, held[-1])
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, CPU if name in to_host else self.device)
        self.session.run_with_iobinding(binding)
        outputs = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {name: value.numpy() if name in to_host else value for name, value in outputs.items()}


class BoundGraph:
    """A graph of which most inputs and outputs stay where they are from run to run.

    Args:
        fixed: inputs, as OrtValues. into: OrtValues that outputs are written to, by name; they may be inputs too.
        to_host: the other outputs, wanted as numpy arrays.
    """

    def __init__(
        self, graph: GraphSession, fixed: Mapping[str, Any], into: Mapping[str, Any], to_host: Sequence[str]
    ) -> None:
        self._session, self._to_host = graph.session, to_host
        self._binding = graph.session.io_binding()
        self._fixed = (fixed, into)  # what is bound must outlive the runs
        for name, value in fixed.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in into.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, feeds: Mapping[str, npt.NDArray[np.int64]]) -> list[npt.NDArray[Any]]:
        """Run once on the other inputs. Returns the outputs that are wanted."""
        held = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        for name, array in held.items():
            self._binding.bind_cpu_input(name, array)
        for name in self._to_host:
            self._binding.bind_output(name, CPU)  # anew, for their shapes may differ from those of the run before
        self._session.run_with_iobinding(self._binding)
        outputs = self._binding.get_outputs_as_ortvaluevector()
        return [outputs[place].numpy() for place in range(len(outputs) - len(self._to_host), len(outputs))]


class FixedSession:
    """One graph at one size of every dimension, its inputs and outputs in buffers that stay where they are.

    On CUDA the graph is captured in the first run and replayed afterwards. For one thread at a time.

    Args:
        dimensions: size of each free dimension, by its name in the graph.
        held: see :class:`GraphSession`.
    """

    def __init__(
        self, path: Path, options: SessionOptions, dimensions: Mapping[str, int], held: HeldFiles | None = None
    ) -> None:
        settings = _settings(options)
        for name, size in dimensions.items():
            settings.add_free_dimension_override_by_name(name, size)
        capture = {"enable_cuda_graph": "1"} if options.device == CUDA else {}
        self._session = _open(path, options, settings, held, **capture)
        self._device = options.device
        self._binding = self._session.io_binding()
        self._inputs: dict[str, Any] = {}

    def run(self, feeds: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[Any]]:
        """Run once. ``feeds``: every input, of the same shape each time. The result is valid until the next run."""
        if self._inputs:
            for name, array in feeds.items():
                self._inputs[name].update_inplace(array)
        else:
            self._bind(feeds)
        self._session.run_with_iobinding(self._binding)
        return {name: value.numpy() for name, value in self._outputs.items()}

    def _bind(self, feeds: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Put the inputs into buffers, learn the outputs' shapes from the graph, and make theirs."""
        for name, array in feeds.items():
            self._inputs[name] = ort.OrtValue.ortvalue_from_numpy(array, self._device)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        self._outputs = {
            output.name: ort.OrtValue.ortvalue_from_shape_and_type(
                output.shape, _ELEMENT_TYPES[output.type], self._device
            )
            for output in self._session.get_outputs()
        }
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)


def select_rows(value: Any, rows: npt.NDArray[np.int64], device: str) -> Any:
    """Rows of an OrtValue along its first axis, as an OrtValue on the same device.

    They pass through the host, for ONNX Runtime gathers no rows outside a graph; searches do this rarely
    (:data:`podx.decoding.options.COMPACT_BELOW`).
    """
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.numpy()[rows]), device)
