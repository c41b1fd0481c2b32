"""Tiny graphs with the true signature, whose results are easy to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from podx.bundle import signature as sig

OPSET, IR_VERSION = 17, 8
SHAPE = sig.ModelShape(decoder_layers=1, heads=2, head_dim=3, vocab_size=5)
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def _value(spec: sig.TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.axes))


def _save(
    path: Path,
    inputs: Sequence[sig.TensorSpec],
    outputs: Sequence[sig.TensorSpec],
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [_value(s) for s in inputs], [_value(s) for s in outputs], initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
    return path


def save_sum(path: Path) -> Path:
    """``total`` = a + b and ``twice`` = 2a, each float32 [n]."""
    vector = [sig.TensorSpec(name, "float32", ("n",)) for name in ("a", "b", "total", "twice")]
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Add", ["a", "a"], ["twice"])]
    return _save(path, vector[:2], vector[2:], nodes, {})


def save_scaled(path: Path) -> Path:
    """``product`` = a · factor, float32 [n]; ``factor`` is 2 where it is left out."""
    vector = [sig.TensorSpec(name, "float32", ("n",)) for name in ("a", "product")]
    factor = sig.TensorSpec("factor", "float32", (1,))
    nodes = [helper.make_node("Mul", ["a", "factor"], ["product"])]
    return _save(path, [vector[0], factor], vector[1:], nodes, {"factor": np.array([2], dtype=np.float32)})


def save_table(path: Path, rows: Sequence[float], beside: str) -> Path:
    """``looked_up`` = the rows at ``places``, float32 [n] and int64 [n]; the table lies in a file of its own."""
    table = np.array(rows, dtype=np.float32)
    (path.parent / beside).write_bytes(table.tobytes())
    places, looked_up = sig.TensorSpec("places", "int64", ("n",)), sig.TensorSpec("looked_up", "float32", ("n",))
    node = helper.make_node("Gather", ["table", "places"], ["looked_up"])
    _save(path, [places], [looked_up], [node], {"table": table})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", beside), ("offset", "0"), ("length", str(table.nbytes))):
        tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)
    return path


def save_encoder(path: Path) -> Path:
    """Cross-attention keys hold the sum of a row's visible ids, values its task, at every place."""
    mask, key, value = sig.memory_tensors(SHAPE)
    nodes = [
        helper.make_node("Mul", [sig.INPUT_IDS, sig.ATTENTION_MASK], ["visible"]),
        helper.make_node("ReduceSum", ["visible", "last_axis"], ["sums"], keepdims=1),  # [batch, 1]
        helper.make_node("Shape", [sig.WHOLE_WORD_IDS], ["source"], start=1),
        helper.make_node("Concat", ["one_head", "source", "one_dim"], ["widths"], axis=0),
        helper.make_node("Unsqueeze", [sig.TASK_ID, "last_axis"], ["tasks"]),
        helper.make_node("Identity", [sig.ATTENTION_MASK], [mask.name]),
    ]
    for name, spec in (("sums", key), ("tasks", value)):
        nodes += [
            helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{name}.float", "middle_axes"], [f"{name}.4d"]),
            helper.make_node("Expand", [f"{name}.4d", "widths"], [spec.name]),
        ]
    constants = {
        "last_axis": np.array([1]),
        "middle_axes": np.array([2, 3]),
        "one_head": np.array([SHAPE.heads]),
        "one_dim": np.array([SHAPE.head_dim]),
    }
    return _save(path, sig.encoder_inputs(), [mask, key, value], nodes, constants)


def save_decoder(path: Path, items_only: bool) -> Path:
    """log_probs = sum of the cache + largest key + largest distance + scored token; each step's tokens are cached."""
    _, key, _ = sig.memory_tensors(SHAPE)
    past, present = sig.past_tensors(SHAPE), sig.present_tensors(SHAPE)
    scored = sig.OUTPUT_TOKENS if items_only else "vocabulary"
    nodes = [
        helper.make_node("Cast", [sig.TOKENS], ["tokens.float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["tokens.float", "head_and_dim"], ["tokens.4d"]),  # [batch, 1, beams, 1]
        helper.make_node("Expand", ["tokens.4d", "head_shape"], ["new"]),
        *(helper.make_node("Concat", [p.name, "new"], [q.name], axis=2) for p, q in zip(past, present, strict=True)),
        helper.make_node("ReduceSum", [past[0].name, "inner_axes"], ["past.sum"], keepdims=0),  # [batch]
        helper.make_node("ReduceMax", [key.name], ["key.max"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Add", ["past.sum", "key.max"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "beam_and_token"], ["row.3d"]),
        helper.make_node("Cast", [sig.DISTANCE], ["distance.float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["distance.float"], ["age"], axes=[2], keepdims=1),  # [batch, beams, 1]
        helper.make_node("Cast", [scored], ["scored.float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["row.3d", "age"], ["beam"]),
        helper.make_node("Add", ["beam", "scored.float"], [sig.LOG_PROBS]),
    ]
    constants = {
        "vocabulary": np.arange(SHAPE.vocab_size),
        "head_and_dim": np.array([1, 3]),
        "head_shape": np.array([1, SHAPE.heads, 1, SHAPE.head_dim]),
        "inner_axes": np.array([1, 2, 3]),
        "beam_and_token": np.array([1, 2]),
    }
    if items_only:
        del constants["vocabulary"]
    inputs = [*sig.step_inputs(items_only), *sig.memory_tensors(SHAPE), *past]
    return _save(path, inputs, [sig.log_probs_tensor(SHAPE, items_only), *present], nodes, constants)
