"""Whether ONNX Runtime multiplies 8-bit integers exactly on this processor.

int8 bundles multiply uint8 activations by int8 weights. x86 processors without VNNI add pairs of such products in 16
bits (``vpmaddubsw``), and ONNX Runtime lets them saturate: 2 · 255 · 127 = 64,770 does not fit into 32,767. Weights
within ±64 fit (2 · 255 · 64 = 32,640), so bundles are written with these. Bundles written before hold weights up to
±127, which are exact only where VNNI, AMX or Arm's dot product multiplies them.

``int8_check.onnx`` beside this file holds the operator with worst-case weights of either kind. It is made by
:mod:`podx_export.blocks.int8_check`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.errors import BundleError
from podx.graphs.instruction_set import instruction_set
from podx.graphs.session import GraphSession, SessionOptions

CHECK_FILE = Path(__file__).with_name("int8_check.onnx")
ROWS_INPUT = "rows"
WEIGHT_LIMITS = (64, 127)
"""Largest magnitudes of weights that there are bundles of."""

INNER, COLUMNS = 64, 32
ROW_COUNTS = (1, 8)
"""A single row has a kernel of its own."""


def product_output(largest: int) -> str:
    """Name of the check graph's output for weights within ±``largest``."""
    return f"product_{largest}"


def worst_case_weights(largest: int) -> npt.NDArray[np.int8]:
    """int8 [64, 32]: columns of the largest weights, of the smallest, of both in turn, and of all kinds."""
    weights = _spread((INNER, COLUMNS), 2 * largest + 1).astype(np.int8) - np.int8(largest)
    weights[:, 0], weights[:, 1] = largest, -largest
    weights[:, 2] = np.where(np.arange(INNER) % 2, largest, -largest)
    return weights


def worst_case_rows(count: int) -> npt.NDArray[np.uint8]:
    """uint8 [count, 64]: a row of 255, then rows of all kinds."""
    rows = _spread((count, INNER), 256).astype(np.uint8)
    rows[0] = 255
    return rows


def _spread(shape: tuple[int, int], values: int) -> npt.NDArray[np.int64]:
    """Numbers from 0 to ``values`` - 1 in an order that looks random, the same in every version of numpy."""
    return np.arange(shape[0] * shape[1]).reshape(shape) * 7919 % 65_537 % values


@cache
def multiplies_exactly(largest: int) -> bool:
    """Whether the products of weights within ±``largest``, one of :data:`WEIGHT_LIMITS`, equal integer arithmetic."""
    session = GraphSession(CHECK_FILE, SessionOptions(threads=1))
    weights = worst_case_weights(largest).astype(np.int64)
    for count in ROW_COUNTS:
        rows = worst_case_rows(count)
        products = session.run({ROWS_INPUT: rows}, to_host=session.outputs)[product_output(largest)]
        if not np.array_equal(products, rows.astype(np.int64) @ weights):
            return False
    return True


def require_exact_products(bundle: Path, largest: int) -> None:
    """Refuse a bundle whose weights this processor does not multiply exactly.

    Args:
        bundle: its folder, for the message.
        largest: magnitude that no weight of it exceeds.

    Raises:
        BundleError: the products would be wrong.
    """
    limit = next((limit for limit in WEIGHT_LIMITS if largest <= limit), None)
    if limit is None or not multiplies_exactly(limit):
        raise BundleError(
            f"{bundle} holds 8-bit weights up to ±{largest}, which this processor ({instruction_set()}) does not "
            f"multiply exactly, so its answers would be wrong: export the checkpoint again with --precision int8, "
            f"which now writes weights that every processor multiplies exactly, or use a bundle in fp32"
        )
