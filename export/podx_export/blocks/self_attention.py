"""What a token of a beam sees of the beam's earlier tokens.

The step graph keeps a cache in which every beam of every step has a slot for good, and masks what is not on a beam's
path (:class:`SlotAttention`): its shapes depend only on the number of slots, and one fused operator does the work.
The graph of the whole search knows the rows on each path and looks at those alone (:class:`PathAttention`): in the
third step with 20 beams that is 3 keys instead of 41, and nothing is copied when beams change places. Both work in
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from podx_export.blocks.graph import MICROSOFT, GraphBuilder
from podx_export.blocks.layers import with_masked_row
from podx_export.blocks.rows import Grid
from podx_export.blocks.source import SourceModel


class SelfAttention(Protocol):
    """Keys, values and queries come as rows, [rows, heads·head_dim], and so does the result.

    Attributes:
        alone: a token is the first and the last, so that nothing is mixed.
    """

    @property
    def alone(self) -> bool:
        """See above."""

    @property
    def needs_query(self) -> bool:
        """False where there is one key only, so that its value is the result."""

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """Attention of a layer over the earlier tokens and this one."""


class SlotAttention:
    """Over all slots of the cache, those off the path masked.

    Args:
        distance: int64 [batch, beams, slots], see :data:`podx.bundle.signature.DISTANCE`.
        past: K and V of the layers, [batch, heads, past, head_dim].
        grid: where the rows lie.

    Attributes:
        present: the same with this step's slots appended.
    """

    needs_query, alone = True, False

    def __init__(self, graph: GraphBuilder, model: SourceModel, distance: str, past: list[str], grid: Grid) -> None:
        self._heads, self._past, self._grid = model.shape.heads, past, grid
        self.present: list[str] = []
        self._bias = _path_bias(graph, model, distance)

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """See :class:`SelfAttention`."""
        parts = (graph.to_float32(part) for part in (query, key, value))  # as the cache is
        query, key, value = (self._grid.spread(graph, part) for part in parts)
        inputs = [query, key, value, "", "", self._bias, *self._past[2 * layer : 2 * layer + 2]]
        mixed, *present = graph.op(
            "MultiHeadAttention", inputs, outputs=3, domain=MICROSOFT, num_heads=self._heads, scale=1.0
        )
        self.present += present
        return self._grid.pack(graph, mixed)


class OwnRows:
    """Over a beam's own row of a cache, which has room for this step and for later ones, masked.

    A query alone is multiplied by its keys as they lie; for a matrix of them, as beams that share keys are, ONNX
    Runtime lays the keys out anew. Where the caller puts the result where the cache lies, only what is new is written.

    Args:
        tokens: int64 [batch, beams]. distance, copied, written: see :func:`podx.bundle.signature.text_step_inputs`.
        past: K and V of the layers, [batch·beams, heads, width, head_dim].

    Attributes:
        present: the same with this step in it.
    """

    needs_query, alone = True, False

    def __init__(
        self,
        graph: GraphBuilder,
        model: SourceModel,
        tokens: str,
        distance: str,
        moved: tuple[str, str],
        past: list[str],
    ) -> None:
        self._shape, self._past, self._moved = model.shape, past, moved
        self.present: list[str] = []
        self._grid = Grid.of(graph, tokens)
        self._bias = _path_bias(graph, model, graph.unsqueeze(distance, 0, 1))

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """See :class:`SelfAttention`. Rows are [batch, beams, heads·head_dim]."""
        query, key, value = (graph.to_float32(part) for part in (query, key, value))  # as the cache is
        heads, head_dim = self._shape.heads, self._shape.head_dim
        copied, written = self._moved
        present = []
        for past, part in zip(self._past[2 * layer : 2 * layer + 2], (key, value), strict=True):
            vectors = graph.make("GatherND", past, copied), graph.reshape(part, -1, head_dim)
            present.append(graph.make("ScatterND", past, written, graph.concat(vectors, axis=0)))
        self.present += present
        single = graph.reshape(query, -1, 1, heads * head_dim)
        mixed = graph.fused("MultiHeadAttention", single, *present, "", "", self._bias, num_heads=heads, scale=1.0)
        return self._grid.spread(graph, mixed)


def _path_bias(graph: GraphBuilder, model: SourceModel, distance: str) -> str:
    """Position bias of slots so many steps back, and the mask of others: [batch, beams, slots] → [batch, heads, …]."""
    with graph.scope("path_bias"):
        near = graph.make("Min", distance, graph.int_scalar(model.max_distance))
        table = graph.weight("decoder_bias", with_masked_row(model.decoder_bias))  # index -1 reads the masked row
        return graph.transpose(graph.make("Gather", table, near), 0, 3, 1, 2)


@dataclass(frozen=True)
class Position:
    """The rows of a step of :class:`PathAttention`, from which another step may follow.

    Attributes:
        path: int64 [rows, step + 1], rows of the table that each saw, its own last.
        step: number of the step.
    """

    path: str
    step: int

    @classmethod
    def joined(cls, graph: GraphBuilder, parts: Sequence[Position]) -> Position:
        """Rows of the same step, one part after another."""
        return cls(graph.concat([part.path for part in parts], axis=0), parts[0].step)


class PathAttention:
    """Over the rows on each row's own path. One object for all steps of a graph.

    Keys and values of earlier steps are kept as rows of one table per layer; ``path`` says which of them a row sees
    beside its own.

    Args:
        last: the last step, which nothing follows.

    Attributes:
        position: the rows that the next step follows; it may be set to those of another step.
    """

    def __init__(self, model: SourceModel, last: int) -> None:
        self._model, self._last, self.alone = model, last, last == 0
        self._tables: dict[int, list[str]] = {}
        self.position = Position("", 0)
        self._table_rows = ""

    @property
    def needs_query(self) -> bool:
        """See :class:`SelfAttention`."""
        return self.position.step > 0

    def start(self, graph: GraphBuilder, batch: str) -> str:
        """First step, one row per user; ``batch`` int64 [1]. → each user's row, int64 [batch, 1]."""
        row = graph.unsqueeze(graph.arange(batch), 1)
        self.position, self._table_rows = Position(row, 0), batch
        return row

    def follow(self, graph: GraphBuilder, parent: str) -> None:
        """Next step: row ``parent`` (int64 [rows], among the rows of the position) is what each row continues."""
        count = graph.make("Shape", parent)
        row = graph.unsqueeze(graph.make("Add", graph.arange(count), self._table_rows), 1)
        before = graph.make("Gather", self.position.path, parent)
        self.position = Position(graph.concat([before, row], axis=1), self.position.step + 1)
        if self.position.step < self._last:
            self._table_rows = graph.make("Add", self._table_rows, count)

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """See :class:`SelfAttention`."""
        rows = [graph.to_float32(part) for part in (key, value)]
        if layer in self._tables:
            rows = [graph.concat(parts, axis=0) for parts in zip(self._tables[layer], rows, strict=True)]
        if self.position.step < self._last:
            self._tables[layer] = rows
        return rows[1] if self.position.step == 0 else self._attend(graph, graph.to_float32(query), *rows)

    def _attend(self, graph: GraphBuilder, query: str, *tables: str) -> str:
        """Rows of heads·head_dim, and all rows of keys and of values → the same.

        Sums keep their axis: ONNX Runtime leaves a tensor without rows in its old shape, which then still fits.
        """
        heads, head_dim = self._model.shape.heads, self._model.shape.head_dim
        keys, values = (
            graph.reshape(graph.make("Gather", table, self.position.path), 0, 0, heads, head_dim) for table in tables
        )
        products = graph.make("Mul", graph.reshape(query, 0, 1, heads, head_dim), keys)
        scores = graph.make("ReduceSum", products, graph.ints(3), keepdims=1)
        weights = graph.make("Softmax", graph.make("Add", scores, self._position_bias(graph)), axis=1)
        mixed = graph.sum(graph.make("Mul", values, weights), 1)
        return graph.reshape(mixed, 0, heads * head_dim)

    def _position_bias(self, graph: GraphBuilder) -> str:
        """[steps, heads, 1]; the first key of a path lies furthest back."""
        back = np.minimum(np.arange(self.position.step, -1, -1), self._model.max_distance)
        return graph.weight(f"decoder_bias.{self.position.step}", self._model.decoder_bias[back][:, :, None])
