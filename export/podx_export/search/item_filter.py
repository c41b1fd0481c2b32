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
from itertools import pairwise
from typing import Protocol

import numpy as np

from podx.bundle import signature as sig
from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import FLOAT, INT64, GraphBuilder

FORBIDDEN = -np.inf
"""Score of a candidate that must not be chosen."""

NOWHERE = -2
"""Node that no beam is at, not even a dead one."""


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


def _never_empty(graph: GraphBuilder, items: str) -> str:
    """A list with padding behind it, for ONNX Runtime reduces empty tensors to a wrong shape."""
    return graph.widened(items, graph.int_scalar(sig.NO_NUMBER))


def _count(graph: GraphBuilder, flags: str) -> str:
    """How many are true along the last axis."""
    return graph.sum(graph.cast(flags, FLOAT), -1)


def _restricted(graph: GraphBuilder, allowed: str) -> str:
    """Whether a request names what it allows, bool [batch, 1]."""
    named = graph.make("Not", graph.make("Equal", allowed, graph.int_scalar(sig.NO_NUMBER)))
    return graph.unsqueeze(graph.make("Greater", _count(graph, named), graph.float_scalar(0.0)), 1)


def _known(graph: GraphBuilder, items: str) -> str:
    """Item numbers, 0 for padding and for numbers beyond the catalog."""
    size = graph.make("Size", tables.ITEM_NODE)
    above = graph.make("Greater", items, graph.int_scalar(0))
    inside = graph.make("And", above, graph.make("Less", items, size))
    return graph.make("Where", inside, items, graph.int_scalar(0))


class ItemFilter(Protocol):
    """The excluded and allowed items of a batch of requests."""

    def may_return(self, item: str) -> str:
        """Whether each item number, int64 [batch, beams], is permitted; 0 (no item) is not. Of beams that live."""

    def apply(self, grid: Grid, level: int) -> str:
        """The grid's scores, :data:`FORBIDDEN` for children, at ``level`` + 1, that lead to no permitted item."""


def item_filter(graph: GraphBuilder, excluded: str, allowed: str, levels: int) -> ItemFilter:
    """The filter of a request's items.

    Args:
        excluded, allowed: int64 [batch, n], see :func:`podx.bundle.signature.filter_inputs`.
        levels: tokens of the longest item that the graph can walk to.
    """
    with graph.scope("item_filter"):
        excluded, allowed = (_never_empty(graph, items) for items in (excluded, allowed))
        one_token = levels == 1
        return _OneTokenFilter(graph, excluded, allowed) if one_token else _TreeFilter(graph, excluded, allowed, levels)


class _OneTokenFilter:
    """Of items of one token.

    They are the children of the root, and the first grid has a column for each.
    """

    def __init__(self, graph: GraphBuilder, excluded: str, allowed: str) -> None:
        self._graph, self._restricted = graph, _restricted(graph, allowed)
        self._closed, self._open = (self._columns(items) for items in (excluded, allowed))

    def _columns(self, items: str) -> str:
        """Of what is no item: -1, the last column, which is unused."""
        node = self._graph.cast(self._graph.make("Gather", tables.ITEM_NODE, _known(self._graph, items)), INT64)
        return self._graph.make("Sub", node, self._graph.int_scalar(1))

    def may_return(self, item: str) -> str:
        """See :class:`ItemFilter`. Nobody comes to an item that is not permitted."""
        return self._graph.make("Greater", item, self._graph.int_scalar(0))

    def apply(self, grid: Grid, level: int) -> str:
        """See :class:`ItemFilter`."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        with graph.scope("item_filter"):
            scores = graph.make("Where", self._restricted, forbidden, grid.scores)
            opened = graph.make("GatherElements", grid.scores, self._open, axis=1)
            scores = graph.make("ScatterElements", scores, self._open, opened, axis=1)
            marks = graph.make("Expand", forbidden, graph.make("Shape", self._closed))
            return graph.make("ScatterElements", scores, self._closed, marks, axis=1)


class _TreeFilter:
    """Of items of several tokens, which share nodes on their paths."""

    def __init__(self, graph: GraphBuilder, excluded: str, allowed: str, levels: int) -> None:
        self._graph, self._levels = graph, levels
        distinct = self._distinct(_known(graph, excluded))
        restricted = _restricted(graph, allowed)
        usable = _known(graph, allowed)
        usable = graph.make("Where", self._any_equal(usable, distinct), graph.int_scalar(0), usable)
        self._items = graph.concat([distinct, usable], axis=1)  # no item is in both
        count = graph.dimension(distinct, 1)
        opens = graph.make("GreaterOrEqual", graph.arange(graph.dimension(self._items, 1)), count)
        self._sign = self._either(opens, 1.0, -1.0)  # [n]
        self._mark = graph.make("Expand", self._either(opens, 0.0, FORBIDDEN), graph.make("Shape", self._items))
        self._closed = self._either(restricted, FORBIDDEN, 0.0)
        self._least_sign = self._either(restricted, 0.5, -0.5)  # of items listed as allowed, or not as excluded
        self._branches = [
            self._branch(parents, children, self._is_marked(children, opens, count))
            for parents, children in pairwise(self._paths(self._items))
        ]

    def _either(self, flags: str, there: float, elsewhere: float) -> str:
        graph = self._graph
        return graph.make("Where", flags, graph.float_scalar(there), graph.float_scalar(elsewhere))

    def _any_equal(self, values: str, others: str) -> str:
        """Whether each of ``values`` [batch, n] is among ``others`` [batch, m] of its request."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(values, 2), graph.unsqueeze(others, 1))
        return graph.make("Greater", _count(graph, same), graph.float_scalar(0.0))

    def _distinct(self, items: str) -> str:
        """Item numbers, 0 where an earlier place holds the same."""
        graph = self._graph
        places = graph.arange(graph.dimension(items, 1))
        earlier = graph.make("Less", graph.unsqueeze(places, 0), graph.unsqueeze(places, 1))
        same = graph.make("Equal", graph.unsqueeze(items, 2), graph.unsqueeze(items, 1))
        repeated = graph.make("Greater", _count(graph, graph.make("And", same, earlier)), graph.float_scalar(0.0))
        return graph.make("Where", repeated, graph.int_scalar(0), items)

    def _paths(self, items: str) -> list[str]:
        """Nodes of items at levels 0, 1, …, each int64 [batch, n]; the root at level 0 and beyond an item's end."""
        graph = self._graph
        chain = [graph.cast(graph.make("Gather", tables.ITEM_NODE, items), INT64)]
        for _ in range(self._levels - 1):
            chain.append(graph.cast(graph.make("Gather", tables.NODE_PARENT, chain[-1]), INT64))
        stack = graph.concat([graph.unsqueeze(nodes, 2) for nodes in chain], axis=2)
        below_root = graph.make("Greater", stack, graph.int_scalar(0))
        length = graph.cast(_count(graph, below_root), INT64)  # OpenVINO counts in integers wrongly, at times
        levels = [graph.make("Mul", items, graph.int_scalar(0))]
        for level in range(1, self._levels + 1):
            back = graph.make("Sub", length, graph.int_scalar(level))  # the chain starts at the item's end
            place = graph.make("Max", back, graph.int_scalar(0))
            node = graph.make("GatherElements", stack, graph.unsqueeze(place, 2), axis=2)
            node = graph.make("Squeeze", node, graph.ints(2))
            reached = graph.make("Less", back, graph.int_scalar(0))
            levels.append(graph.make("Where", reached, graph.int_scalar(0), node))
        return levels

    def _is_marked(self, nodes: str, opens: str, excluded: str) -> str:
        """Which nodes have a mark, bool [batch, n]: all items at or below are excluded, or one of them is allowed."""
        graph = self._graph
        others = graph.unsqueeze(graph.head(nodes, excluded, 1), 1)
        same = graph.make("Equal", graph.unsqueeze(nodes, 2), others)
        all_of_them = graph.cast(graph.make("Gather", tables.SUBTREE_ITEMS, nodes), FLOAT)
        full = graph.make("GreaterOrEqual", _count(graph, same), all_of_them)
        return graph.make("And", graph.make("Or", opens, full), graph.make("Greater", nodes, graph.int_scalar(0)))

    def _branch(self, parents: str, children: str, marked: str) -> tuple[str, str]:
        """Where marked children branch off: their parent, else no node, int64 [batch, n, 1]; place among its edges."""
        graph = self._graph
        origin = graph.make("Where", marked, parents, graph.int_scalar(NOWHERE))
        first = graph.cast(graph.make("Gather", tables.CHILD_START, parents), INT64)
        edge = graph.make("Sub", children, graph.int_scalar(1))  # edge e leads to node e + 1
        return graph.unsqueeze(origin, 2), graph.make("Sub", edge, first)

    # --- in a step ------------------------------------------------------------------------------------------------

    def may_return(self, item: str) -> str:
        """See :class:`ItemFilter`."""
        graph = self._graph
        same = graph.make("Equal", graph.unsqueeze(item, 2), graph.unsqueeze(self._items, 1))
        open_ = graph.make("Greater", self._weighed(same, self._sign), self._least_sign)
        return graph.make("And", open_, graph.make("Greater", item, graph.int_scalar(0)))

    def _weighed(self, flags: str, weights: str) -> str:
        """Sum of the weights of what is true along the last axis.

        A matrix product, for ONNX Runtime's sums leave a tensor without elements as it was.
        """
        graph = self._graph
        product = graph.make("MatMul", graph.cast(flags, FLOAT), graph.unsqueeze(weights, 1))
        return graph.make("Squeeze", product, graph.ints(2))

    def apply(self, grid: Grid, level: int) -> str:
        """See :class:`ItemFilter`.

        A child that is marked where no beam is at its parent has its mark in the unused column of the first beam.
        """
        graph = self._graph
        with graph.scope("item_filter"):
            origin, offset = self._branches[level]
            here = graph.make("Equal", origin, graph.unsqueeze(grid.node, 1))  # at most one beam is at a node
            beams = graph.dimension(grid.node, 1)
            from_one = graph.make("Add", graph.cast(graph.arange(beams), FLOAT), graph.float_scalar(1.0))
            beam = graph.cast(self._weighed(here, from_one), INT64)  # 0 where there is none
            before = graph.make("Mul", graph.make("Sub", beam, graph.int_scalar(1)), grid.stride)
            unused = graph.make("Sub", grid.stride, graph.int_scalar(1))
            there = graph.make("Greater", beam, graph.int_scalar(0))
            place = graph.make("Where", there, graph.make("Add", before, offset), unused)
            # a grid without beams has no unused column either, so nothing may be marked in it
            marks = graph.make("Mul", graph.dimension(place, 1), graph.make("Min", beams, graph.int_scalar(1)))
            place, mark = (graph.head(value, marks, 1) for value in (place, self._mark))
            closed = graph.make("Expand", self._closed, graph.make("Shape", grid.scores))
            return graph.make("Add", grid.scores, graph.make("ScatterElements", closed, place, mark, axis=1))
