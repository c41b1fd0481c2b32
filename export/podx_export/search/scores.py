"""Scores of the tokens that a step of the search chooses among, from the decoder's states.

Two kinds. Over the catalog: one product with the output rows of all its tokens. Over siblings (one-pass models): the
children of each beam's node alone, a distribution of their own. Their output rows are gathered where the level has so
many tokens that gathering costs less than the product with them all; on CPUs once for all beams at a node, for the
beams of a batch have many nodes in common.
"""

from __future__ import annotations

import numpy as np

from podx.bundle import trie_tables as names
from podx.bundle.manifest import LIKELY
from podx.bundle.tables import TableFile
from podx_export.blocks.graph import FLOAT, INT8, INT64, INT64_MAX, GraphBuilder
from podx_export.blocks.integer import integer_output
from podx_export.blocks.layers import MASKED, embed
from podx_export.blocks.rows import BeamRows, Groups, Rows
from podx_export.blocks.source import SourceModel
from podx_export.search.item_filter import FORBIDDEN

FULL_PRODUCT, FULL_PRODUCT_OF_NODES = 256, 64
"""A level of up to this many times as many tokens as its widest node has children is multiplied whole: against rows
gathered for each beam, and for each node."""

LONG_LEVEL = 1024
"""Tokens of the first level beyond which int8 graphs score them in integers: reading them is much of a user's time."""

TINY = 1e-30
"""Stands for a probability of 0, of which there is no logarithm."""

ROUNDING = 1e-5
"""More than a log-probability may exceed its ceiling by the rounding of float32."""

BEYOND_ALL = 1 << 30
"""Place that no node has a child at."""


def even_chance(graph: GraphBuilder, count: str) -> str:
    """1/n of int32 numbers n of children; 1 where there are none."""
    return graph.make("Reciprocal", graph.cast(graph.make("Max", count, graph.int32_scalar(1)), FLOAT))


def even_chances(graph: GraphBuilder) -> str:
    """The same by node, float32 [nodes]; ONNX Runtime computes it when it loads the graph."""
    after = graph.make("Slice", names.CHILD_START, graph.ints(1), graph.ints(INT64_MAX), graph.ints(0))
    first = graph.make("Slice", names.CHILD_START, graph.ints(0), graph.ints(-1), graph.ints(0))
    return even_chance(graph, graph.make("Sub", after, first))


def room_above(graph: GraphBuilder, even: str, before: str, least: float) -> str:
    """What the likeliest child of a node may have beyond an even chance where it is an item's last token of several.

    Args:
        even: 1/n of the node's n children. before: log-probability of the tokens that lead to it.
        least: the ceiling, see :func:`podx_train.model.ceiling.under_ceiling`.
    """
    likely = graph.make("Mul", graph.make("Exp", before), graph.float_scalar(1 / LIKELY))
    ceiling = graph.make("Clip", likely, graph.float_scalar(least), graph.float_scalar(1.0))
    return graph.make("Mul", graph.make("Sub", graph.float_scalar(1.0), even), ceiling)


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
        by_node: gather once for all beams at a node; shapes then depend on values.

    Attributes:
        level_sizes: tokens of each level.
    """

    def __init__(self, graph: GraphBuilder, model: SourceModel, tables: TableFile, levels: int, by_node: bool) -> None:
        self._graph, self._model, self._by_node = graph, model, by_node
        self._name = "embedding" if model.output is model.embedding else "output"
        times = FULL_PRODUCT_OF_NODES if by_node else FULL_PRODUCT
        self.level_sizes = [tables.place(names.level_tokens(level)).shape[0] for level in range(levels)]
        most = [tables.place(names.widest(level)).shape[0] for level in range(levels)]
        self._gathered = [
            level > 0 and size > times * widest
            for level, (size, widest) in enumerate(zip(self.level_sizes, most, strict=True))
        ]

    def of_root(self, states: str) -> str:
        """States [batch, d] → [batch, 1, children of the root + 1]."""
        graph, tokens = self._graph, names.level_tokens(0)
        if graph.precision == INT8 and self.level_sizes[0] > LONG_LEVEL:
            logits = integer_output(graph, states, self._name, self._model.output, graph.indices(tokens))
        else:
            logits = graph.make("Gemm", states, self._output_rows(tokens), transB=1)
        log_probs = graph.make("LogSoftmax", logits, axis=-1)
        return graph.unsqueeze(graph.widened(log_probs, graph.float_scalar(FORBIDDEN)), 1)

    def of(self, states: str, rows: BeamRows, node: str, before: str, level: int) -> str:
        """Later levels.

        Args:
            states: decoder states laid out as rows, [rows, d].
            node: int64 [batch, beams], nodes at ``level``; below 0 where a beam is dead.
            before: float32 [batch, beams], sums of log-probabilities that lead there.

        Returns:
            float32 [batch, beams, most children + 1], :data:`FORBIDDEN` where a node has fewer.
        """
        graph = self._graph
        node = rows.pick(graph, node)
        edge, there, count = self._children(node, level)
        if not self._gathered[level]:
            logits = self._logits(states, edge, level)
        elif self._by_node:
            logits = self._logits_by_node(states, node, level)
        else:
            products = self._products(edge, graph.unsqueeze(states, 1))
            logits = graph.make("Squeeze", products, graph.ints(2))
        logits = graph.make("Where", there, logits, graph.float_scalar(MASKED))
        last = level + 1 == len(self.level_sizes) and self._model.ceiling < 1
        if last:
            log_probs = self._under_ceiling(logits, count, graph.unsqueeze(rows.pick(graph, before), 1))
        else:
            log_probs = graph.make("LogSoftmax", logits, axis=-1)
        return rows.spread(graph, graph.make("Where", there, log_probs, graph.float_scalar(FORBIDDEN)))

    def _under_ceiling(self, logits: str, count: str, before: str) -> str:
        """Log-probabilities, mixed with even chances where one has more than :func:`room_above`: [rows, edges].

        Args:
            count: int32 [rows, 1], children of each row's node. before: see :func:`room_above`.
        """
        graph, one, tiny = self._graph, self._graph.float_scalar(1.0), self._graph.float_scalar(TINY)
        odds, even = graph.make("Softmax", logits, axis=-1), even_chance(graph, count)
        above = graph.make("Sub", graph.reduce("ReduceMax", odds, 1, keepdims=1), even)
        room = room_above(graph, even, before, self._model.ceiling)
        kept = graph.make("Min", graph.make("Div", room, graph.make("Max", above, tiny)), one)
        spread = graph.make("Add", graph.make("Mul", graph.make("Sub", one, kept), even), tiny)
        return graph.make("Log", graph.make("Add", graph.make("Mul", odds, kept), spread))

    def _logits(self, states: str, edge: str, level: int) -> str:
        """One product with all tokens of the level, of which the children are taken: [rows, edges]."""
        graph = self._graph
        whole = graph.make("Gemm", states, self._output_rows(names.level_tokens(level)), transB=1)
        return graph.make("GatherElements", whole, graph.make("Gather", names.LEVEL_COLUMN, edge), axis=1)

    def _logits_by_node(self, states: str, node: str, level: int) -> str:
        """A product for each node, of its children's rows and the states of all beams there: [rows, edges]."""
        graph = self._graph
        groups = Groups.of(graph, node)
        products = self._products(self._children(groups.key, level)[0], graph.make("Gather", states, groups.row))
        by_row = graph.make("Flatten", graph.transpose(products, 0, 2, 1), axis=2)
        return graph.make("Gather", by_row, groups.place)

    def _products(self, edge: str, states: str) -> str:
        """Output rows of edges [groups, edges], by states [groups, beams, d] → [groups, edges, beams]."""
        graph = self._graph
        column = graph.make("Gather", names.EDGE_COLUMN, edge)
        token = graph.make("Gather", graph.indices(names.OUTPUT_TOKENS), graph.cast(column, INT64))
        vectors = embed(graph, self._name, self._model.output, token)
        return graph.make("MatMul", vectors, graph.transpose(states, 0, 2, 1))

    def _children(self, node: str, level: int) -> tuple[str, str, str]:
        """Edges from nodes, int32 [nodes, most children + 1]; whether there is such an edge; how many, [nodes, 1]."""
        graph = self._graph
        node = graph.unsqueeze(node, 1)
        first = graph.make("Gather", names.CHILD_START, graph.make("Max", node, graph.int_scalar(0)))
        after = graph.make("Gather", names.CHILD_START, graph.make("Add", node, graph.int_scalar(1)))
        places = graph.concat([names.widest(level), graph.weight("beyond", np.array([BEYOND_ALL], np.int32))], axis=0)
        edge = graph.make("Add", first, places)
        there = graph.make("Less", edge, after)  # a dead beam has no child at all
        return graph.make("Where", there, edge, graph.int32_scalar(0)), there, graph.make("Sub", after, first)

    def _output_rows(self, tokens: str) -> str:
        """Rows of the output layer, which ONNX Runtime gathers once, when it loads the graph."""
        return embed(self._graph, self._name, self._model.output, self._graph.indices(tokens))
