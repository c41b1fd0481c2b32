"""The item filter inside the graph: which items a request may be answered with.

The counterpart of :mod:`podx.decoding.item_filter`: a node may be entered while a permitted item lies at or below it.
Excluded and allowed items come as item numbers per request, so their cost grows with the request and not with the
catalog: each number is turned into the nodes on its path, and in each step those whose parent is a live beam are marked
in the grid of candidates.

Nothing here branches: a request without a filter has rows of padding, whose marks all fall on a column that no
candidate uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from podx.bundle import signature as sig
from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import FLOAT, INT64, GraphBuilder

FORBIDDEN = -np.inf
"""Score of a candidate that must not be chosen."""


@dataclass(frozen=True)
class Grid:
    """Candidates of one step: those of beam n stand in columns n·stride … (n+1)·stride - 1, the last one unused.

    Attributes:
        scores: float32 [batch, beams·stride].
        node: int64 [batch, beams], node of each beam, -1 where it is dead.
        stride: int64 [1].
    """

    scores: str
    node: str
    stride: str


class ItemFilter:
    """The excluded and allowed items of a batch of requests.

    Args:
        excluded, allowed: int64 [batch, n], see :func:`podx.bundle.signature.filter_inputs`.
        levels: tokens of the longest item that the graph can walk to.
    """

    def __init__(self, graph: GraphBuilder, excluded: str, allowed: str, levels: int) -> None:
        self._graph, self._levels = graph, levels
        with graph.scope("item_filter"):
            padding = graph.int_scalar(sig.NO_NUMBER)  # ONNX Runtime reduces empty tensors to a wrong shape
            excluded, allowed = (graph.widened(items, padding) for items in (excluded, allowed))
            self._excluded = self._distinct(self._known(excluded))
            self._excluded_paths = self._paths(self._excluded)
            self._exhausted = [self._is_exhausted(nodes) for nodes in self._excluded_paths]
            named = graph.make("Not", graph.make("Equal", allowed, graph.int_scalar(sig.NO_NUMBER)))
            self._restricted = graph.make("Greater", self._count(named, -1), graph.float_scalar(0.0))
            usable = self._known(allowed)
            denied = self._any_equal(usable, self._excluded)
            self._allowed = graph.make("Where", denied, graph.int_scalar(0), usable)
            self._allowed_paths = self._paths(self._allowed)

    def _count(self, flags: str, axis: int) -> str:
        """How many are true along an axis."""
        return self._graph.sum(self._graph.cast(flags, FLOAT), axis)

    def _any_equal(self, values: str, others: str) -> str:
        """Whether each of ``values`` [batch, n] is among ``others`` [batch, m] of its request."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(values, 2), graph.unsqueeze(others, 1))
        return graph.make("Greater", self._count(same, -1), graph.float_scalar(0.0))

    def _known(self, items: str) -> str:
        """Item numbers, 0 for padding and for numbers beyond the catalog."""
        graph = self._graph
        size = graph.make("Size", tables.ITEM_NODE)
        above = graph.make("Greater", items, graph.int_scalar(0))
        inside = graph.make("And", above, graph.make("Less", items, size))
        return graph.make("Where", inside, items, graph.int_scalar(0))

    def _distinct(self, items: str) -> str:
        """Item numbers, 0 where an earlier place holds the same."""
        graph = self._graph
        places = graph.arange(graph.dimension(items, 1))
        earlier = graph.make("Less", graph.unsqueeze(places, 0), graph.unsqueeze(places, 1))
        same = graph.make("Equal", graph.unsqueeze(items, 2), graph.unsqueeze(items, 1))
        repeated = graph.make("Greater", self._count(graph.make("And", same, earlier), -1), graph.float_scalar(0.0))
        return graph.make("Where", repeated, graph.int_scalar(0), items)

    def _paths(self, items: str) -> list[str]:
        """Nodes of items at levels 0, 1, …, each int64 [batch, n]; the root at level 0 and beyond an item's end."""
        graph = self._graph
        chain = [graph.cast(graph.make("Gather", tables.ITEM_NODE, items), INT64)]
        for _ in range(self._levels - 1):
            chain.append(graph.cast(graph.make("Gather", tables.NODE_PARENT, chain[-1]), INT64))
        stack = graph.concat([graph.unsqueeze(nodes, 2) for nodes in chain], axis=2)
        below_root = graph.make("Greater", stack, graph.int_scalar(0))
        length = graph.cast(self._count(below_root, -1), INT64)  # OpenVINO counts in integers wrongly, at times
        levels = [graph.make("Mul", items, graph.int_scalar(0))]
        for level in range(1, self._levels + 1):
            back = graph.make("Sub", length, graph.int_scalar(level))  # the chain starts at the item's end
            place = graph.make("Max", back, graph.int_scalar(0))
            node = graph.make("GatherElements", stack, graph.unsqueeze(place, 2), axis=2)
            node = graph.make("Squeeze", node, graph.ints(2))
            reached = graph.make("Less", back, graph.int_scalar(0))
            levels.append(graph.make("Where", reached, graph.int_scalar(0), node))
        return levels

    def _is_exhausted(self, nodes: str) -> str:
        """Whether all items at or below each node are excluded: bool [batch, n]."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(nodes, 2), graph.unsqueeze(nodes, 1))
        all_of_them = graph.cast(graph.make("Gather", tables.SUBTREE_ITEMS, nodes), FLOAT)
        full = graph.make("GreaterOrEqual", self._count(same, -1), all_of_them)
        return graph.make("And", full, graph.make("Greater", nodes, graph.int_scalar(0)))

    # --- in a step ------------------------------------------------------------------------------------------------

    def may_return(self, item: str) -> str:
        """Whether each item number, int64 [batch, beams], is permitted; 0 (no item) is not."""
        graph = self._graph
        listed = self._is_among(item, self._allowed)
        free = graph.make("Not", graph.unsqueeze(self._restricted, 1))
        open_ = graph.make("And", graph.make("Or", free, listed), graph.make("Greater", item, graph.int_scalar(0)))
        return graph.make("And", open_, graph.make("Not", self._is_among(item, self._excluded)))

    def _is_among(self, items: str, others: str) -> str:
        """Whether each of ``items`` [batch, beams], of which there may be none, is among ``others`` [batch, n]."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(items, 2), graph.unsqueeze(others, 1))
        return graph.make("Greater", self._weighed(same, graph.dimension(others, 1), None), graph.float_scalar(0.0))

    def _weighed(self, flags: str, size: str, weights: str | None) -> str:
        """Sum of the weights (1 where none are given) of what is true along the last axis, of length ``size``.

        A matrix product, for ONNX Runtime's sums leave a tensor without elements as it was.
        """
        graph = self._graph
        if weights is None:
            weights = graph.make("Expand", graph.float_scalar(1.0), size)
        product = graph.make("MatMul", graph.cast(flags, FLOAT), graph.unsqueeze(weights, 1))
        return graph.make("Squeeze", product, graph.ints(2))

    def apply(self, grid: Grid, level: int) -> str:
        """The grid's scores, :data:`FORBIDDEN` for children, at ``level`` + 1, that lead to no permitted item."""
        graph = self._graph
        with graph.scope("item_filter"):
            forbidden = graph.float_scalar(FORBIDDEN)
            parents, children = self._excluded_paths[level : level + 2]
            place = self._place(grid, parents, children, self._exhausted[level + 1])
            scores = graph.make("ScatterElements", grid.scores, place, self._filled(place, forbidden), axis=1)
            parents, children = self._allowed_paths[level : level + 2]
            place = self._place(grid, parents, children, graph.make("Greater", children, graph.int_scalar(0)))
            closed = graph.make("Where", graph.unsqueeze(self._restricted, 1), forbidden, graph.float_scalar(0.0))
            closed = graph.make("Expand", closed, graph.make("Shape", scores))
            opened = self._filled(place, graph.float_scalar(0.0))
            return graph.make("Add", scores, graph.make("ScatterElements", closed, place, opened, axis=1))

    def _filled(self, like: str, value: str) -> str:
        return self._graph.make("Expand", value, self._graph.make("Shape", like))

    def _place(self, grid: Grid, parents: str, children: str, wanted: str) -> str:
        """Column of each (parent, child) in the grid; the unused column of the first beam where there is none."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(parents, 2), graph.unsqueeze(grid.node, 1))
        here = graph.make("And", same, graph.unsqueeze(wanted, 2))  # at most one beam is at a node
        beams = graph.dimension(grid.node, 1)
        from_one = graph.make("Add", graph.cast(graph.arange(beams), FLOAT), graph.float_scalar(1.0))
        beam = graph.cast(self._weighed(here, beams, from_one), INT64)  # 0 where there is none
        edge = graph.make("Sub", children, graph.int_scalar(1))  # edge e leads to node e + 1
        first = graph.cast(graph.make("Gather", tables.CHILD_START, parents), INT64)
        before = graph.make("Mul", graph.make("Sub", beam, graph.int_scalar(1)), grid.stride)
        column = graph.make("Add", before, graph.make("Sub", edge, first))
        unused = graph.make("Sub", grid.stride, graph.int_scalar(1))
        place = graph.make("Where", graph.make("Greater", beam, graph.int_scalar(0)), column, unused)
        # a grid without beams has no unused column either, so nothing may be marked in it
        marks = graph.make("Mul", graph.dimension(place, 1), graph.make("Min", beams, graph.int_scalar(1)))
        return graph.head(place, marks, 1)
