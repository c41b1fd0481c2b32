"""The graph by which the runtime checks how a processor multiplies (:mod:`podx.graphs.int8_check`).

``python -m podx_export.blocks.int8_check`` writes it anew, into the runtime's package.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from podx.graphs.int8_check import CHECK_FILE, INNER, ROWS_INPUT, WEIGHT_LIMITS, product_output, worst_case_weights
from podx_export.blocks.graph import FLOAT, IR_VERSION, MICROSOFT, MICROSOFT_OPSET, OPSET


def check_model() -> onnx.ModelProto:
    """uint8 ``rows`` [n, 64] → for each limit, their product with the worst-case weights, float32 [n, 32]."""
    one, zero = np.array(1, dtype=np.float32), np.array(0, dtype=np.uint8)
    constants = [numpy_helper.from_array(one, "one"), numpy_helper.from_array(zero, "zero")]
    nodes, outputs = [], []
    for limit in WEIGHT_LIMITS:
        weights, product = f"weights_{limit}", product_output(limit)
        constants.append(numpy_helper.from_array(worst_case_weights(limit), weights))
        inputs = [ROWS_INPUT, weights, "one", "one", "zero"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [product], product, domain=MICROSOFT))
        outputs.append(helper.make_tensor_value_info(product, FLOAT, ["n", None]))
    rows = helper.make_tensor_value_info(ROWS_INPUT, onnx.TensorProto.UINT8, ["n", INNER])
    graph = helper.make_graph(nodes, "int8_check", [rows], outputs, constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="podx")


if __name__ == "__main__":
    CHECK_FILE.write_bytes(check_model().SerializeToString())
