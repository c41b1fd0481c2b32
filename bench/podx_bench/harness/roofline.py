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
from podx_bench.harness.records import GemmRecord, RooflineRecord, SpeedRecord

MILLISECONDS = 1e3


@dataclass(frozen=True)
class Arithmetic:
    """Operations of the encoder and of the cross-attention's keys and values for a source token, and of a beam-step."""

    encoder_ops: int
    memory_ops: int
    beam_ops: int

    @classmethod
    def of_backbone(cls, backbone: Mapping[str, Any]) -> Arithmetic:
        """From the fields of a ``T5Config``."""
        width = backbone["d_model"]
        square = OPS_PER_PRODUCT * width * backbone["num_heads"] * backbone["d_kv"]
        matrices = 3 if str(backbone["feed_forward_proj"]).startswith("gated") else 2
        forward = OPS_PER_PRODUCT * matrices * width * backbone["d_ff"]
        layers, decoder_layers = backbone["num_layers"], backbone["num_decoder_layers"]
        return cls(
            layers * (4 * square + forward), decoder_layers * 2 * square, decoder_layers * (6 * square + forward)
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> Arithmetic:
        """From a checkpoint folder.

        Raises:
            CheckpointError: its configuration cannot be read.
        """
        from podx_train.checkpoint.checkpoint import CONFIG_FILE  # brings torch, which other engines' bench needs not
        from podx_train.model.config import PodConfig

        return cls.of_backbone(PodConfig.from_json((checkpoint / CONFIG_FILE).read_text(encoding="utf-8")).backbone)


def rate_at(gemm: Sequence[GemmRecord], precision: str, rows: float) -> float | None:
    """Operations a second that products of so many rows can reach at most; None: not measured.

    The best rate of the measured shapes up to the first that has as many rows, so that the bound is never too slow.
    """
    rates = {record.rows: record.giga_ops_per_s for record in gemm if record.precision == precision}
    if not rates:
        return None
    enough = min((measured for measured in rates if measured >= rows), default=max(rates))
    return GIGA * max(rate for measured, rate in rates.items() if measured <= enough)


def rooflines(
    record: SpeedRecord, arithmetic: Arithmetic, gemm: Sequence[GemmRecord], prompt_vectors: int, beams: int
) -> list[RooflineRecord]:
    """A roofline for each precision that was measured, of the cell that a record is of; none without its lengths.

    Args:
        prompt_vectors: that the model puts before each input. beams: of the search.
    """
    if record.source_tokens_mean is None or record.decoding_steps is None:
        return []
    batch, steps, tokens = record.batch_size, record.decoding_steps, record.source_tokens_mean + prompt_vectors
    parts = (  # (operations a user, rows of each product)
        ((arithmetic.encoder_ops + arithmetic.memory_ops) * tokens, batch * tokens),
        (arithmetic.beam_ops, batch),
        (arithmetic.beam_ops * (steps - 1) * beams, batch * beams),
    )
    giga = sum(ops for ops, _ in parts) / GIGA
    records = []
    for precision in dict.fromkeys(measured.precision for measured in gemm):
        ms = MILLISECONDS * sum(ops / (rate_at(gemm, precision, rows) or float("inf")) for ops, rows in parts)
        records.append(RooflineRecord(record.task, batch, precision, tokens, steps, giga, ms))
    return records
