"""One external file that holds every weight of a bundle exactly once, whichever graphs use it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

ALIGNMENT = 4096
"""Offsets are multiples of the page size, so a runtime can map weights straight from the file."""

SMALL_TENSOR_BYTES = 1024
"""Tensors up to this size are kept inside the graph."""


class WeightStore:
    """Appends tensors to a file; a tensor seen before (same bytes, type and shape) is not written again.

    Args:
        path: file to create. Its name is what the graphs refer to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[tuple[str, str, tuple[int, ...]], tuple[int, int]] = {}
        self._siblings: dict[str, WeightStore] = {}

    def close(self) -> None:
        """Finish the file, and those beside it."""
        for store in (*self._siblings.values(), self):
            store._file.close()

    def sibling(self, name: str) -> WeightStore:
        """The store of another file in the same folder, created when it is first asked for."""
        if name not in self._siblings:
            self._siblings[name] = WeightStore(self.path.with_name(name))
        return self._siblings[name]

    def tensor(self, name: str, array: npt.NDArray[np.generic]) -> TensorProto:
        """An initializer called ``name`` whose data lies in the file (or inside, when small)."""
        array = np.ascontiguousarray(array)
        if array.nbytes <= SMALL_TENSOR_BYTES:
            return onnx.numpy_helper.from_array(array, name)
        offset, length = self._place(array)
        proto = TensorProto()
        proto.name = name
        proto.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.dims.extend(array.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        return proto

    def _place(self, array: npt.NDArray[np.generic]) -> tuple[int, int]:
        data = array.tobytes()
        key = (hashlib.sha256(data).hexdigest(), str(array.dtype), array.shape)
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[key] = (self._file.tell(), len(data))
            self._file.write(data)
        return self._places[key]
