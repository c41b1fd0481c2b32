"""A thin layer over ``onnx.helper``: one method per operator, names that tell where a node belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from podx.bundle.signature import TensorSpec
from podx_export.blocks.weights import WeightStore

OPSET = 17
"""Of graphs in all precisions but int8: old enough for the ONNX Runtime inside Triton's current and recent backends."""

BLOCKS_OPSET = 21
"""The first in which QuantizeLinear takes a scale for a block of an axis, and so for each row of any layout."""

FP32, INT8, FP16, BF16 = "fp32", "int8", "fp16", "bf16"
"""Precisions: of everything; of weights and what they are multiplied with; of matrix products and attention."""

MICROSOFT = "com.microsoft"
MICROSOFT_OPSET = 1
IR_VERSION, BLOCKS_IR_VERSION = 8, 10

FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64
HALF_TYPES = {FP16: onnx.TensorProto.FLOAT16, BF16: onnx.TensorProto.BFLOAT16}
HALF_ARRAYS: dict[str, npt.DTypeLike] = {FP16: np.float16, BF16: ml_dtypes.bfloat16}
BOOL = onnx.TensorProto.BOOL
INT64_MAX = int(np.iinfo(np.int64).max)
"""End of a slice that goes to the end of its axis."""

_ELEMENT_TYPES = {"int64": INT64, "float32": FLOAT, "bool": BOOL}


class GraphBuilder:
    """Collects nodes and weights of one graph. Values are referred to by name (``str``).

    ``row_axis``: the last of the rows that dense layers read.
    """

    def __init__(self, name: str, weights: WeightStore, precision: str = FP32, row_axis: int = 1) -> None:
        self.name, self.precision, self.row_axis = name, precision, row_axis
        self.opset = BLOCKS_OPSET if precision == INT8 else OPSET
        self.rounded: dict[str, tuple[str, str]] = {}  # to 8 bits: rows and their scales (podx_export.blocks.integer)
        self.zeros = ""  # of such rows, until others come
        self._half: dict[str, str] = {}
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._scope: list[str] = []
        self._used: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix of the names of all nodes made inside, as in ``/decoder/layers.0/self_attention/MatMul``."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def _unique(self, stem: str) -> str:
        path = "/" + "/".join([self.name, *self._scope, stem])
        count = self._used.get(path, 0)
        self._used[path] = count + 1
        return path if count == 0 else f"{path}_{count}"

    # --- inputs, outputs, constants -------------------------------------------------------------------------------

    def input(self, spec: TensorSpec) -> str:
        """Declare a graph input."""
        self._inputs.append(_value_info(spec))
        return spec.name

    def output(self, spec: TensorSpec, value: str) -> None:
        """Declare a graph output and give it a value."""
        self._nodes.append(
            helper.make_node("Identity", [value], [spec.name], name=self._unique(f"{spec.name}/Identity"))
        )
        self._outputs.append(_value_info(spec))

    def output_itself(self, spec: TensorSpec, value: str) -> None:
        """The same for a value that other nodes read too, without the copy that this would cost: it takes the name."""
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [spec.name if name == value else name for name in names]
        self._outputs.append(_value_info(spec))

    def weight(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """A named constant kept in the weight file."""
        if name not in self._initializers:
            self._initializers[name] = self._weights.tensor(name, array)
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        name = "ints." + "_".join(map(str, values)).replace("-", "m")
        return self.weight(name, np.array(values, dtype=np.int64))

    def int_scalar(self, value: int) -> str:
        """A constant int64 scalar."""
        return self.weight(f"int.{value}".replace("-", "m"), np.array(value, dtype=np.int64))

    def float_scalar(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.weight(f"float.{value}", np.array(value, dtype=np.float32))

    def int32_scalar(self, value: int) -> str:
        """A constant int32 scalar."""
        return self.weight(f"int32.{value}".replace("-", "m"), np.array(value, dtype=np.int32))

    def sibling_weights(self, file: str) -> WeightStore:
        """The store of another file in the weight file's folder."""
        return self._weights.sibling(file)

    def initializer(self, tensor: onnx.TensorProto) -> str:
        """A constant whose data lie elsewhere than in the weight file."""
        self._initializers[tensor.name] = tensor
        return tensor.name

    def indices(self, table: str) -> str:
        """A table of the catalog as indices of a Gather.

        ONNX Runtime's shape inference wants to read a Gather's indices when they are an initializer, and refuses those
        whose data lie in a file; behind an operator it does not look.
        """
        return self.make("Abs", table)

    def optional_input(self, spec: TensorSpec, array: npt.NDArray[np.generic]) -> str:
        """Declare a graph input that a caller may leave out: an initializer of the same name holds its default."""
        self._inputs.append(_value_info(spec))
        self._initializers[spec.name] = onnx.numpy_helper.from_array(array, spec.name)
        return spec.name

    # --- operators ------------------------------------------------------------------------------------------------

    def op(
        self, operator: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Any operator; returns the names of its outputs."""
        name = self._unique(operator)
        names = [f"{name}:{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=name, domain=domain, **attributes))
        return names

    def make(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A standard operator with one output."""
        return self.op(operator, inputs, **attributes)[0]

    def fused(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A com.microsoft operator of which the first output is wanted."""
        return self.op(operator, inputs, domain=MICROSOFT, **attributes)[0]

    @property
    def is_half(self) -> bool:
        """Whether matrix products and attention take 16 bits."""
        return self.precision in HALF_TYPES

    def to_half(self, value: str) -> str:
        """A float32 value in the graph's 16-bit type, cast once for all that read it; unchanged in other precisions."""
        if not self.is_half:
            return value
        if value not in self._half:
            self._half[value] = self.cast(value, HALF_TYPES[self.precision])
        return self._half[value]

    def to_float32(self, value: str) -> str:
        """A value in float32."""
        return self.cast(value, FLOAT) if self.is_half else value

    def float_weight(self, name: str, array: npt.NDArray[np.float32]) -> str:
        """A named constant, in 16 bits where the graph is."""
        if not self.is_half:
            return self.weight(name, array)
        return self.weight(f"{name}.{self.precision}", array.astype(HALF_ARRAYS[self.precision]))

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut along an axis."""
        return self.op("Split", [value, self.ints(*sizes)], outputs=len(sizes), axis=axis)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis, -1 is what is left."""
        return self.make("Reshape", value, self.ints(*shape))

    def transpose(self, value: str, *permutation: int) -> str:
        """Permute axes."""
        return self.make("Transpose", value, perm=list(permutation))

    def cast(self, value: str, element_type: int) -> str:
        """Change the element type (``onnx.TensorProto.…``)."""
        return self.make("Cast", value, to=element_type)

    def unsqueeze(self, value: str, *axes: int) -> str:
        """Insert axes of length 1."""
        return self.make("Unsqueeze", value, self.ints(*axes))

    def sum(self, value: str, axis: int) -> str:
        """Sum along one axis, which goes. An empty axis gives 0."""
        return self.make("ReduceSum", value, self.ints(axis), keepdims=0)

    def reduce(self, operator: str, value: str, axis: int, keepdims: int) -> str:
        """A reduction along one axis but ReduceSum, whose axes have always been an input."""
        if self.opset == OPSET:
            return self.make(operator, value, axes=[axis], keepdims=keepdims)
        return self.make(operator, value, self.ints(axis), keepdims=keepdims)

    def arange(self, size: str) -> str:
        """0 … size - 1 as int64, for ``size`` int64 [1].

        No Range: where its limit is a constant, ONNX Runtime may merge that with a vector, and then refuse it.
        """
        ones = self.make("Expand", self.ints(1), size)
        return self.make("CumSum", ones, self.int_scalar(0), exclusive=1)

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Values one after another along an axis."""
        return values[0] if len(values) == 1 else self.make("Concat", *values, axis=axis)

    def widened(self, value: str, filler: str) -> str:
        """One more column, so that no row is empty: [rows, n] and a scalar of the same type → [rows, n + 1]."""
        shape = self.concat([self.dimension(value, 0), self.ints(1)], axis=0)
        return self.concat([value, self.make("Expand", filler, shape)], axis=1)

    def head(self, value: str, size: str, axis: int) -> str:
        """The first ``size`` (int64 [1]) entries along an axis."""
        return self.make("Slice", value, self.ints(0), size, self.ints(axis))

    def dimension(self, value: str, axis: int) -> str:
        """Size of one axis, int64 [1]."""
        return self.make("Shape", value, start=axis, end=axis + 1)

    def model(self) -> onnx.ModelProto:
        """The finished model, its data in the weight file. What no output depends on is left out."""
        read, nodes = {value.name for value in (*self._inputs, *self._outputs)}, []  # inputs, for their defaults
        for node in reversed(self._nodes):
            if not read.isdisjoint(node.output):
                nodes.append(node)
                read.update(node.input)
        initializers = [tensor for name, tensor in self._initializers.items() if name in read]
        graph = helper.make_graph(nodes[::-1], self.name, self._inputs, self._outputs, initializer=initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=BLOCKS_IR_VERSION if self.opset == BLOCKS_OPSET else IR_VERSION,
            producer_name="podx",
        )


def values_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of all values that some node takes as an input."""
    return {name for node in nodes for name in node.input}


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _ELEMENT_TYPES[spec.dtype], list(spec.axes))
