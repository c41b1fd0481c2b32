"""Weights as 8-bit integers.

One scale per output channel, symmetric about zero: a matrix product of integers is then scaled column by column, and
no correction for a zero point of the weights is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LARGEST = 64
"""Largest magnitude of a weight. x86 processors without VNNI add two products of a uint8 and an int8 in 16 bits, which
saturate: 2 · 255 · 64 = 32,640 fits, 2 · 255 · 127 does not (:mod:`podx.graphs.int8_check`)."""


@dataclass(frozen=True)
class Quantized:
    """``values``: int8, shape of the weight; ``scale``: float32, one per output channel."""

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def quantize_columns(weight: npt.NDArray[np.float32]) -> Quantized:
    """``weight`` [in, out], a scale for each of the ``out`` columns."""
    scale = _scale(np.abs(weight).max(axis=0))
    return Quantized(_rounded(weight / scale), scale)


def quantize_rows(table: npt.NDArray[np.float32]) -> Quantized:
    """``table`` [rows, d] of an embedding, a scale for each row."""
    scale = _scale(np.abs(table).max(axis=1))
    return Quantized(_rounded(table / scale[:, None]), scale)


def _scale(largest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of channels whose largest magnitude is given; 1 for a channel of zeros."""
    return np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.clip(np.round(values), -LARGEST, LARGEST).astype(np.int8)
