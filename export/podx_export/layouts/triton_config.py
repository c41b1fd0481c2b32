"""What Triton Inference Server must be told of a graph, and which of its releases can run it.

Configurations are protobuf text (``model_config.proto`` of triton-inference-server/common).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from podx import __version__
from podx.bundle.manifest import INT8
from podx.errors import ExportError
from podx_export.blocks.graph import FP16

MODEL_NAME = "podx"
MAX_BATCH = 64
"""Users in one run of the graph at most."""
RELEASES: Mapping[str, str] = {
    "23.12": "1.16.3",
    "24.12": "1.20.1",
    "25.05": "1.22.0",
    "25.12": "1.23.2",
    "26.07": "1.27.0",
    "26.08": "1.28.0",
}
"""ONNX Runtime of some releases, oldest first: ``build.py`` of triton-inference-server/server, a branch for each."""
OPSETS_NEED: Mapping[int, str] = {17: "1.12.0", 21: "1.18.0"}
"""The first ONNX Runtime with an opset."""
OPERATORS_NEED: Mapping[str, str] = dict.fromkeys(
    ("MultiHeadAttention", "SkipSimplifiedLayerNormalization", "FastGelu", "MatMulIntegerToFloat"), "1.21.1"
)
"""The oldest ONNX Runtime that runs graphs of these com.microsoft operators and gives the answers of today's.

1.16.3 refuses the attention bias [batch, 1, query, key]; 1.20.1 takes it and gives other items.
"""
_TYPES: Mapping[int, str] = {
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
_KINDS = {INT8: "KIND_CPU", FP16: "KIND_GPU"}
"""What a precision is for; fp32 runs on a GPU where the server has one."""


def least_release(model: onnx.ModelProto) -> tuple[str, str]:
    """The oldest of :data:`RELEASES` that can run a graph, and the ONNX Runtime that the graph needs.

    Raises:
        ExportError: an opset or operator of which that is not known, or which no release has.
    """
    opsets = [opset.version for opset in model.opset_import if not opset.domain]
    operators = sorted({node.op_type for node in model.graph.node if node.domain})
    unknown = [f"opset {opset}" for opset in opsets if opset not in OPSETS_NEED]
    unknown += [operator for operator in operators if operator not in OPERATORS_NEED]
    if unknown:
        raise ExportError(
            f"not known which Triton runs {', '.join(unknown)}: export a bundle, and serve it with podx serve"
        )
    needed = max((*(OPSETS_NEED[o] for o in opsets), *(OPERATORS_NEED[o] for o in operators)), key=_version)
    for release, runtime in RELEASES.items():
        if _version(runtime) >= _version(needed):
            return release, needed
    raise ExportError(f"the graph needs ONNX Runtime {needed}, and no Triton release that podx knows has it")


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def server_graph(model: onnx.ModelProto) -> None:
    """Make constants of the inputs that have a default: Triton refuses optional inputs in models it batches."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in defaults]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def config_text(model: onnx.ModelProto, precision: str) -> str:
    """The configuration of a graph all of whose inputs and outputs begin with the axis of the batch."""
    release, runtime = least_release(model)
    kind = [f"instance_group {{ kind: {_KINDS[precision]} }}"] if precision in _KINDS else []
    lines = [
        f"# Written by podx {__version__}. Needs ONNX Runtime {runtime} or later: Triton {release} or later.",
        f'name: "{MODEL_NAME}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH}",
        "dynamic_batching { }",
        *kind,
        *_tensors("input", model.graph.input),
        *_tensors("output", model.graph.output),
    ]
    return "\n".join(lines) + "\n"


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """A line for each; the batch goes without saying, and no list of dimensions may be empty."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        dims = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim][1:]
        shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
        lines.append(f'{field} {{ name: "{value.name}" data_type: {_TYPES[tensor.elem_type]} {shape} }}')
    return lines
