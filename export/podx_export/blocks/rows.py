"""How the beams of a batch are laid out for the dense layers, and for attention.

Attention works on [batch, beams, d]: a user's beams share keys and values. Dense layers do not care which user a row
belongs to, so they can run on the live beams alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from podx.bundle.signature import LEAST_ROWS
from podx_export.blocks.graph import FLOAT, INT8, INT64, GraphBuilder

BLOCK = 32
"""Rows of a block of :class:`BlockRows`."""


class Rows(Protocol):
    """Between the rows of the dense layers and the beams of attention; n is any width."""

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """Rows → [batch, beams, n]."""

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """[batch, beams, n] → rows."""


@dataclass(frozen=True)
class Grid:
    """Everything has a row: [batch·beams, n], or [batch·positions, n] in the encoder.

    Attributes:
        shape: int64 [3]: batch, beams, -1.
    """

    shape: str

    @classmethod
    def of(cls, graph: GraphBuilder, value: str) -> Grid:
        """``value``: [batch, beams, …]."""
        return cls(graph.make("Concat", graph.make("Shape", value, end=2), graph.ints(-1), axis=0))

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Reshape", rows, self.shape)

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Flatten", beams, axis=2)


class InPlace:
    """Rows stay as they are, [batch, beams, n]: no operators for that, which count where each does little."""

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        return rows

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        return beams


class SingleBeam:
    """One beam per user: rows are [batch, n]."""

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        return graph.unsqueeze(rows, 1)

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Squeeze", beams, graph.ints(1))


class BeamRows(Rows, Protocol):
    """Rows of the beams of a later step.

    Attributes:
        row: int64 [batch, beams], row of each beam; that of some other beam where it has none.
    """

    @property
    def row(self) -> str:
        """See above."""

    def pick(self, graph: GraphBuilder, beams: str) -> str:
        """One number per beam, [batch, beams] → [rows]."""


@dataclass(frozen=True)
class AllRows:
    """Every beam has a row, dead ones too: [batch·beams, n]. Shapes depend on no value, as a CUDA graph needs.

    Attributes:
        row: int64 [batch, beams].
        beams: how many a user has.
    """

    row: str
    beams: int

    @classmethod
    def of(cls, graph: GraphBuilder, alive: str, beams: int) -> AllRows:
        """``alive``: bool [batch, beams], of which only the shape counts."""
        rows = graph.arange(graph.dimension(graph.reshape(alive, -1), 0))
        return cls(graph.reshape(rows, -1, beams), beams)

    def pick(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`BeamRows`."""
        return graph.reshape(beams, -1)

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        shape = graph.concat([graph.ints(-1, self.beams), graph.dimension(rows, 1)], axis=0)
        return graph.make("Reshape", rows, shape)

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Flatten", beams, axis=2)


def least_rows(graph: GraphBuilder) -> str:
    """Rows that a step has at least, int64 [1]: none, so that nothing is computed where no beam is alive."""
    return graph.weight(LEAST_ROWS, np.zeros(1, dtype=np.int64))


@dataclass(frozen=True)
class LiveRows:
    """Only live beams have a row: [rows, n].

    Attributes:
        row: int64 [batch, beams], row of each beam; that of some other beam where it has none.
        beam: int64 [rows], place of each row among batch × beams.
    """

    row: str
    beam: str

    @classmethod
    def of(cls, graph: GraphBuilder, alive: str, least: str = "") -> LiveRows:
        """``alive``: bool [batch, beams]; ``least``: rows that there are at least, int64 [1].

        Where no beam is alive there must be no beams, for the dead point at row 0; or, where a row is asked for
        (by default as :data:`podx.bundle.signature.LEAST_ROWS` says), the first place has it.
        """
        kept = graph.reshape(graph.cast(alive, INT64), -1)
        if least or graph.precision != INT8:  # which is for CPUs
            asked = graph.make("Less", graph.arange(graph.dimension(kept, 0)), least or least_rows(graph))
            kept = graph.make("Max", kept, graph.cast(asked, INT64))
        beam = graph.reshape(graph.make("NonZero", kept), -1)
        place = graph.make("Sub", graph.make("CumSum", kept, graph.int_scalar(0)), graph.int_scalar(1))
        row = graph.make("Mul", place, kept)  # row 0 for the dead
        return cls(graph.make("Reshape", row, graph.make("Shape", alive), allowzero=1), beam)

    def pick(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`BeamRows`."""
        return graph.make("Gather", graph.reshape(beams, -1), self.beam)

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Gather", rows, self.row)

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        flat = graph.make("Flatten", beams, axis=2)
        return graph.make("Gather", flat, self.beam)


@dataclass(frozen=True)
class BlockRows:
    """Live rows in blocks of one user each, as many as the user's rows take: [blocks, BLOCK, n].

    For attention where some users have ten times as many beams as others: what is padded is each user's last block.
    There is at least one block, for older ONNX Runtimes (1.26 among them) divide by their number.

    Attributes:
        filler: float32 [1 or 0, n], a row in place of none.
        user: int64 [blocks].
        row: int64 [blocks, BLOCK], rows of each block; any row behind its last.
        place: int64 [rows], where each row stands among blocks × BLOCK.
    """

    filler: str
    user: str
    row: str
    place: str

    @classmethod
    def of(cls, graph: GraphBuilder, owner: str, batch: str, width: int) -> BlockRows:
        """``owner``: int64 [rows], user of each row, ascending; ``batch``: int64 [1]; ``width``: n of rows."""
        size, rows = graph.int_scalar(BLOCK), graph.make("Shape", owner)
        nobody = graph.make("Expand", graph.ints(0), batch)
        count = graph.make("ScatterElements", nobody, owner, graph.make("Expand", graph.ints(1), rows), reduction="add")
        blocks = graph.make("Div", graph.make("Add", count, graph.int_scalar(BLOCK - 1)), size)
        first, first_block = (graph.make("CumSum", n, graph.int_scalar(0), exclusive=1) for n in (count, blocks))
        after = graph.make("Add", first_block, blocks)
        shift = graph.make("Sub", graph.make("Mul", first_block, size), first)
        place = graph.make("Add", graph.arange(rows), graph.make("Gather", shift, owner))
        total = graph.make("ReduceSum", blocks, graph.ints(0), keepdims=1)
        block = graph.arange(graph.make("Max", total, graph.int_scalar(1)))
        passed = graph.make("LessOrEqual", after, graph.unsqueeze(block, 1))  # [blocks, batch]
        ones = graph.make("Expand", graph.float_scalar(1.0), graph.concat([batch, graph.ints(1)], axis=0))
        user = graph.make("Squeeze", graph.make("MatMul", graph.cast(passed, FLOAT), ones), graph.ints(1))
        user = graph.make("Min", graph.cast(user, INT64), graph.make("Sub", batch, graph.int_scalar(1)))
        start = graph.make("Sub", graph.make("Mul", block, size), graph.make("Gather", shift, user))
        row = graph.make("Add", graph.unsqueeze(start, 1), graph.weight("block", np.arange(BLOCK, dtype=np.int64)))
        missing = graph.make("Sub", graph.int_scalar(1), graph.make("Min", rows, graph.int_scalar(1)))
        shape = graph.concat([missing, graph.ints(width)], axis=0)
        filler = graph.make("Expand", graph.float_scalar(0.0), shape)
        return cls(filler, user, graph.make("Min", row, graph.make("Sub", rows, graph.int_scalar(1))), place)

    def spread(self, graph: GraphBuilder, rows: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Gather", graph.concat([rows, graph.to_half(self.filler)], axis=0), self.row)

    def pack(self, graph: GraphBuilder, beams: str) -> str:
        """See :class:`Rows`."""
        return graph.make("Gather", graph.make("Flatten", beams, axis=2), self.place)


@dataclass(frozen=True)
class Groups:
    """Rows with the same key beside each other. Shapes depend on values.

    Attributes:
        key: int64 [groups], ascending.
        row: int64 [groups, most], rows of each group; any row where a group has fewer than the largest.
        place: int64 [rows], where each row stands among groups × most.
    """

    key: str
    row: str
    place: str

    @classmethod
    def of(cls, graph: GraphBuilder, key: str) -> Groups:
        """``key``: int64 [rows], of which there may be none."""
        keys, _, group, count = graph.op("Unique", [key], outputs=4)
        size = graph.make("Shape", key)
        group, order = graph.op("TopK", [group, size], outputs=2, largest=0)
        first = graph.make("CumSum", count, graph.int_scalar(0), exclusive=1)
        some = graph.concat([count, graph.ints(1)], axis=0)
        most = graph.reduce("ReduceMax", some, 0, keepdims=1)
        number = graph.make("Sub", graph.arange(size), graph.make("Gather", first, group))
        place = graph.make("Add", graph.make("Mul", group, most), number)
        place = graph.make("ScatterElements", place, order, place, axis=0)
        turn = graph.make("Add", graph.unsqueeze(first, 1), graph.arange(most))
        last = graph.make("Sub", size, graph.int_scalar(1))
        return cls(keys, graph.make("Gather", order, graph.make("Min", turn, last)), place)
