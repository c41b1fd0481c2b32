"""Scores of the tokens that a step of the search chooses among, from the decoder's states.

Two kinds. Over the catalog: one product with the output rows of all its tokens. Over siblings (one-pass models): the
children of each beam's node alone, a distribution of their own. Their output rows are gathered where the level has so
many tokens that gathering costs less than the product with them all.
"""

from __future__ import annotations

import numpy as np

from podx.bundle import trie_tables as names
from podx.bundle.tables import TableFile
from podx_export.blocks.graph import INT64, GraphBuilder
from podx_export.blocks.layers import MASKED, embed
from podx_export.blocks.rows import BeamRows, Rows
from podx_export.blocks.source import SourceModel
from podx_export.search.item_filter import FORBIDDEN

FULL_PRODUCT = 256
"""A level of up to this many times as many tokens as its widest node has children is multiplied whole. In a trial (512
wide, 20 beams, batch 32, one thread) both ways took as long at 327 times; with more threads the product gains."""

BEYOND_ALL = 1 << 30
"""Place that no node has a child at."""


class CatalogScores:
    """Log-probabilities over the catalog's tokens and end of sequence.

    Attributes:
        tokens: their rows of the embedding.
    """

    def __init__(self, graph: GraphBuilder, model: SourceModel) -> None:
        self._graph = graph
        output_tokens = graph.indices(names.OUTPUT_TOKENS)
        self.tokens = embed(graph, "embedding", model.embedding, output_tokens)
        tied = model.output is model.embedding
        self._output = self.tokens if tied else embed(graph, "output", model.output, output_tokens)

    def of(self, states: str, rows: Rows) -> str:
        """States laid out as rows → [batch, beams, output tokens]."""
        logits = self._graph.make("Gemm", states, self._output, transB=1)
        return rows.spread(self._graph, self._graph.make("LogSoftmax", logits, axis=-1))


class SiblingScores:
    """Log-probabilities of each beam's next node among its siblings, in a grid with an unused column at its end.

    Args:
        tables: the catalog, whose numbers decide level by level how it is multiplied.
        levels: tokens of the longest item.
    """

    def __init__(self, graph: GraphBuilder, model: SourceModel, tables: TableFile, levels: int) -> None:
        self._graph, self._model = graph, model
        self._name = "embedding" if model.output is model.embedding else "output"
        self._gathered = [
            level > 0 and _size(tables, names.level_tokens(level)) > FULL_PRODUCT * _size(tables, names.widest(level))
            for level in range(levels)
        ]

    def of_root(self, states: str) -> str:
        """States [batch, d] → [batch, 1, children of the root + 1]."""
        graph = self._graph
        logits = graph.make("Gemm", states, self._output_rows(names.level_tokens(0)), transB=1)
        log_probs = graph.make("LogSoftmax", logits, axis=-1)
        shape = graph.concat([graph.dimension(log_probs, 0), graph.ints(1)], axis=0)
        unused = graph.make("Expand", graph.float_scalar(FORBIDDEN), shape)
        return graph.unsqueeze(graph.concat([log_probs, unused], axis=1), 1)

    def of(self, states: str, rows: BeamRows, node: str, level: int) -> str:
        """Later levels.

        Args:
            states: decoder states laid out as rows, [rows, d].
            node: int64 [batch, beams], nodes at ``level``; below 0 where a beam is dead.

        Returns:
            float32 [batch, beams, most children + 1], :data:`FORBIDDEN` where a node has fewer.
        """
        graph = self._graph
        node = rows.pick(graph, node)
        first = graph.make("Gather", names.CHILD_START, graph.make("Max", node, graph.int_scalar(0)))
        after = graph.make("Gather", names.CHILD_START, graph.make("Add", node, graph.int_scalar(1)))
        places = graph.concat([names.widest(level), graph.weight("beyond", np.array([BEYOND_ALL], np.int32))], axis=0)
        edge = graph.make("Add", graph.unsqueeze(first, 1), places)
        there = graph.make("Less", edge, graph.unsqueeze(after, 1))  # a dead beam has no child at all
        edge = graph.make("Where", there, edge, graph.int32_scalar(0))
        logits = self._gathered_logits(states, edge) if self._gathered[level] else self._logits(states, edge, level)
        log_probs = graph.make("LogSoftmax", graph.make("Where", there, logits, graph.float_scalar(MASKED)), axis=-1)
        return rows.spread(graph, graph.make("Where", there, log_probs, graph.float_scalar(FORBIDDEN)))

    def _logits(self, states: str, edge: str, level: int) -> str:
        """One product with all tokens of the level, of which the children are taken: [rows, edges]."""
        graph = self._graph
        whole = graph.make("Gemm", states, self._output_rows(names.level_tokens(level)), transB=1)
        return graph.make("GatherElements", whole, graph.make("Gather", names.LEVEL_COLUMN, edge), axis=1)

    def _gathered_logits(self, states: str, edge: str) -> str:
        """A product with the children's own rows: [rows, edges]."""
        graph = self._graph
        column = graph.make("Gather", names.EDGE_COLUMN, edge)
        token = graph.make("Gather", graph.indices(names.OUTPUT_TOKENS), graph.cast(column, INT64))
        vectors = embed(graph, self._name, self._model.output, token)
        return graph.make("Squeeze", graph.make("MatMul", vectors, graph.unsqueeze(states, 2)), graph.ints(2))

    def _output_rows(self, tokens: str) -> str:
        """Rows of the output layer, which ONNX Runtime gathers once, when it loads the graph."""
        return embed(self._graph, self._name, self._model.output, self._graph.indices(tokens))


def _size(tables: TableFile, name: str) -> int:
    return tables.place(name).shape[0]
