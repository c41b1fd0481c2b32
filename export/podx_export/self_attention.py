"""What a token of a beam sees of the beam's earlier tokens.

The step graph keeps a cache in which every beam of every step has a slot for good, and masks what is not on a beam's
path (:class:`SlotAttention`): its shapes hang on nothing but the number of slots, and one fused operator does the work.
The graph of the whole search knows the rows on each path and looks at those alone (:class:`PathAttention`): in the
third step with 20 beams that is 3 keys instead of 41, and nothing is copied when beams change places. Both work in
float32.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from podx_export.graph import MICROSOFT, GraphBuilder
from podx_export.layers import with_masked_row
from podx_export.source import SourceModel


class SelfAttention(Protocol):
    """Keys, values and queries come as rows, [..., heads·head_dim], and so does the result."""

    @property
    def needs_query(self) -> bool:
        """False where there is one key only, so that its value is the result."""

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """Attention of a layer over the earlier tokens and this one."""


class SlotAttention:
    """Over all slots of the cache, those off the path masked.

    Args:
        distance: int64 [batch, beams, slots], see :data:`podx.signature.DISTANCE`.
        past: K and V of the layers, [batch, heads, past, head_dim].

    Attributes:
        present: the same with this step's slots appended.
    """

    needs_query = True

    def __init__(self, graph: GraphBuilder, model: SourceModel, distance: str, past: list[str]) -> None:
        self._heads, self._past = model.shape.heads, past
        self.present: list[str] = []
        with graph.scope("path_bias"):
            near = graph.make("Min", distance, graph.int_scalar(model.max_distance))
            table = graph.weight("decoder_bias", with_masked_row(model.decoder_bias))  # index -1 reads the masked row
            self._bias = graph.transpose(graph.make("Gather", table, near), 0, 3, 1, 2)

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """See :class:`SelfAttention`."""
        query, key, value = (graph.wide(part) for part in (query, key, value))  # as the cache is
        inputs = [query, key, value, "", "", self._bias, *self._past[2 * layer : 2 * layer + 2]]
        mixed, *present = graph.op(
            "MultiHeadAttention", inputs, outputs=3, domain=MICROSOFT, num_heads=self._heads, scale=1.0
        )
        self.present += present
        return mixed


class PathAttention:
    """Over the rows on each row's own path. One object for all steps of a graph.

    Keys and values of all steps are kept as rows of one table per layer; ``path`` says which of them a row sees.
    """

    def __init__(self, model: SourceModel) -> None:
        self._model = model
        self._keys: dict[int, str] = {}
        self._values: dict[int, str] = {}
        self._path = ""
        self._steps = 0

    @property
    def needs_query(self) -> bool:
        """See :class:`SelfAttention`."""
        return self._steps > 1

    def start(self, graph: GraphBuilder, batch: str) -> str:
        """First step, one row per user; ``batch`` int64 [1]. → path, int64 [rows, 1]."""
        self._steps, self._path = 1, graph.unsqueeze(graph.count_up(batch), 1)
        return self._path

    def follow(self, graph: GraphBuilder, parent: str) -> None:
        """Next step: row ``parent`` (int64 [rows], among the rows of the step before) is what each row continues."""
        earlier = graph.make("Gather", self._path, parent)
        count = graph.make("Shape", parent)
        own = graph.make("Add", graph.count_up(count), graph.dimension(self._keys[0], 0))
        self._path = graph.concat([earlier, graph.unsqueeze(own, 1)], axis=1)
        self._steps += 1

    def mix(self, graph: GraphBuilder, layer: int, query: str, key: str, value: str) -> str:
        """See :class:`SelfAttention`."""
        key, value = graph.wide(key), graph.wide(value)
        for table, rows in ((self._keys, key), (self._values, value)):
            table[layer] = graph.concat([table[layer], rows], axis=0) if layer in table else rows
        if self._steps == 1:
            return value
        heads, head_dim = self._model.shape.heads, self._model.shape.head_dim
        keys = graph.make("Gather", self._keys[layer], self._path)
        products = graph.reshape(graph.make("Mul", graph.unsqueeze(graph.wide(query), 1), keys), 0, 0, heads, head_dim)
        # shapes are said again after sums, for ONNX Runtime leaves a tensor without rows as it was
        summed = graph.reshape(graph.sum(products, -1), 0, self._steps, heads)
        scores = graph.make("Add", summed, self._position_bias(graph))
        weights = graph.unsqueeze(graph.make("Softmax", scores, axis=1), 3)
        values = graph.reshape(graph.make("Gather", self._values[layer], self._path), 0, 0, heads, head_dim)
        mixed = graph.sum(graph.make("Mul", values, weights), 1)
        return graph.reshape(mixed, 0, heads * head_dim)

    def _position_bias(self, graph: GraphBuilder) -> str:
        """[steps, heads]; the first key of a path lies furthest back."""
        back = np.minimum(np.arange(self._steps - 1, -1, -1), self._model.max_distance)
        return graph.weight(f"decoder_bias.{self._steps}", self._model.decoder_bias[back])
