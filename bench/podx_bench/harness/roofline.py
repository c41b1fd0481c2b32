"""The roofline: how long one user's matrix products take at the machine's own measured rate.

Counted are the products with weights, two operations (a multiplication and an addition) for each weight and row:

- the encoder, for each source token: 4 · d_model · inner for attention and 2 · d_model · d_ff (3 where the feed-forward
  part is gated) in each layer;
- the cross-attention keys and values, for each source token: 2 · d_model · inner in each decoder layer;
- the decoder, for each beam and step: 6 · d_model · inner (self-attention's four matrices, cross-attention's query and
  output) and the feed-forward part, in each layer. The first step has one beam, the others have all:
  1 + (steps - 1) · beams rows a user.

Not counted: scores of attention, norms, softmax, and the output layer, which is cut to the catalog's tokens. A search
that drops beams early does less and may need less time than this. For t5-small at 41 source tokens this gives 1.55,
0.26 and 0.044 · 10^9 operations for the encoder, the cross keys and values, and a beam's step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx_bench.harness.gemm import GIGA, OPS_PER_PRODUCT
from podx_bench.harness.records import GemmRecord, RooflineRecord

MILLISECONDS = 1e3
GATED = "gated"
"""How T5's ``feed_forward_proj`` begins where the first feed-forward matrix comes twice."""
ENCODER_ATTENTION, CROSS_MEMORY, DECODER_ATTENTION = 4, 2, 6
"""Matrices of d_model · inner: of an encoder layer; keys and values of a decoder layer; what else it has."""


@dataclass(frozen=True)
class Arithmetic:
    """Weights that a row of activations meets.

    Attributes:
        encoder_weights: for a source token.
        memory_weights: for a source token, cross-attention keys and values of all decoder layers.
        beam_weights: for one beam in one decoding step.
    """

    encoder_weights: int
    memory_weights: int
    beam_weights: int

    @classmethod
    def of_backbone(cls, backbone: Mapping[str, Any]) -> Arithmetic:
        """From the fields of a ``T5Config``."""
        width, inner = backbone["d_model"], backbone["num_heads"] * backbone["d_kv"]
        matrices = 3 if str(backbone["feed_forward_proj"]).startswith(GATED) else 2
        forward = matrices * width * backbone["d_ff"]
        decoder_layers = backbone["num_decoder_layers"]
        return cls(
            encoder_weights=backbone["num_layers"] * (ENCODER_ATTENTION * width * inner + forward),
            memory_weights=decoder_layers * CROSS_MEMORY * width * inner,
            beam_weights=decoder_layers * (DECODER_ATTENTION * width * inner + forward),
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> Arithmetic:
        """From a checkpoint folder.

        Raises:
            CheckpointError: its configuration cannot be read.
        """
        from podx_train.checkpoint.checkpoint import (
            CONFIG_FILE,  # brings torch, which the other engines' bench does not need
        )
        from podx_train.model.config import PodConfig

        text = (checkpoint / CONFIG_FILE).read_text(encoding="utf-8")
        return cls.of_backbone(PodConfig.from_json(text).backbone)

    def encoder_ops(self, tokens: float) -> float:
        """Operations of the encoder on a source of so many tokens."""
        return OPS_PER_PRODUCT * self.encoder_weights * tokens

    def memory_ops(self, tokens: float) -> float:
        """Operations of the cross-attention keys and values of so many source tokens."""
        return OPS_PER_PRODUCT * self.memory_weights * tokens

    def beam_ops(self, rows: float = 1) -> float:
        """Operations of so many beam-steps."""
        return OPS_PER_PRODUCT * self.beam_weights * rows


def rate_at(gemm: Sequence[GemmRecord], precision: str, rows: float) -> float | None:
    """Operations a second that products of so many rows can reach at most; None: not measured.

    The best rate of the measured shapes up to the first that has as many rows, so that the bound is never too slow.
    """
    shapes = sorted((record for record in gemm if record.precision == precision), key=lambda record: record.rows)
    if not shapes:
        return None
    enough = next((record.rows for record in shapes if record.rows >= rows), shapes[-1].rows)
    return GIGA * max(record.giga_ops_per_s for record in shapes if record.rows <= enough)


@dataclass(frozen=True)
class RooflineCell:
    """What a roofline is computed for. ``source_tokens``: mean of the inputs, prompt vectors counted."""

    task: str
    batch_size: int
    source_tokens: float
    decoding_steps: int
    beams: int


def rooflines(cell: RooflineCell, arithmetic: Arithmetic, gemm: Sequence[GemmRecord]) -> list[RooflineRecord]:
    """A roofline for each precision that was measured."""
    batch, tokens = cell.batch_size, cell.source_tokens
    later = (cell.decoding_steps - 1) * cell.beams
    parts = (  # (operations a user, rows of each product)
        (arithmetic.encoder_ops(tokens) + arithmetic.memory_ops(tokens), batch * tokens),
        (arithmetic.beam_ops(), batch),
        (arithmetic.beam_ops(later), batch * cell.beams),
    )
    records = []
    for precision in dict.fromkeys(record.precision for record in gemm):
        seconds = sum(ops / (rate_at(gemm, precision, rows) or float("inf")) for ops, rows in parts)
        records.append(
            RooflineRecord(
                task=cell.task,
                batch_size=batch,
                precision=precision,
                source_tokens=tokens,
                decoding_steps=cell.decoding_steps,
                giga_ops=sum(ops for ops, _ in parts) / GIGA,
                ms_per_user=seconds * MILLISECONDS,
            )
        )
    return records
