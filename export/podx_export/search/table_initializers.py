"""Initializers whose data lie in the catalog file, so that another catalog needs no other graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from podx.bundle.tables import TableFile
from podx_export.blocks.graph import values_read

INLINE_BYTES = 64
"""A table of so many bytes lies in the graph itself."""
LOCATION, OFFSET, LENGTH = "location", "offset", "length"


def table_initializer(name: str, tables: TableFile) -> onnx.TensorProto:
    """The initializer called ``name`` over the table of that name: type, shape and place, no bytes.

    A table of up to :data:`INLINE_BYTES` lies in the graph itself: ONNX Runtime merges equal constants, and its shape
    inference must be able to read what a small one was merged with. Nor can it read an empty table from a file.

    Raises:
        CatalogError: the file has no such table.
    """
    place = tables.place(name)
    if place.length <= INLINE_BYTES:
        return onnx.numpy_helper.from_array(np.array(tables.map(name)), name)
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(place.dtype), dims=place.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ((LOCATION, tables.path.name), (OFFSET, place.offset), (LENGTH, place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def reads_tables(model: onnx.ModelProto, tables: TableFile) -> bool:
    """Whether a model (loaded without its data) has an initializer that is a table."""
    return any(_is_table(tensor, tables) for tensor in model.graph.initializer)


def repoint(model: onnx.ModelProto, tables: TableFile) -> None:
    """Renew every initializer that is a table, in place: shape, offset, length and small content may have changed.

    Args:
        model: loaded with ``load_external_data=False``.
        tables: the file as it is now.

    Raises:
        CatalogError: the file lacks a table that the model reads.
    """
    for tensor in model.graph.initializer:
        if _is_table(tensor, tables):
            tensor.CopyFrom(table_initializer(tensor.name, tables))


def drop_unread(model: onnx.ModelProto) -> None:
    """Remove the initializers that no node reads: ONNX Runtime warns of each when it loads the graph.

    :class:`podx_export.blocks.graph.GraphBuilder` leaves them out; graphs of version 0.1 have some.
    """
    read = values_read(model.graph.node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def data_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold a model's initializers."""
    return {name for tensor in model.graph.initializer if (name := _location(tensor)) is not None}


def _is_table(tensor: onnx.TensorProto, tables: TableFile) -> bool:
    """Over a file of that name, or in the model itself under the name of a table."""
    location = _location(tensor)
    return location == tables.path.name or (location is None and tensor.name in tables.layout)


def _location(tensor: onnx.TensorProto) -> str | None:
    """File that holds an initializer's data, or None where the model itself does."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == LOCATION), None)
