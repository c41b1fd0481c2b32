"""One step of the search where scores are over siblings: an item ends with its last token.

The counterpart of :mod:`podx.decoding.items` for one-pass models: of the ``beams`` best continuations of a user, those
that reach a leaf are answers and the others live on. At the last level all are answers, so only the k best are looked
for; of a catalog of one token an item that is the whole search, and it is exhaustive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import INT64, GraphBuilder
from podx_export.search.item_filter import FORBIDDEN, Grid, ItemFilter
from podx_export.search.scores import ROUNDING, even_chances, room_above
from podx_export.search.trie_search import DEAD, Answers, Beams, SearchInputs, TrieSearch


@dataclass(frozen=True)
class _Continuations:
    """The best of each user, each [batch, wanted].

    Attributes:
        score: float32, sum of log-probabilities; :data:`FORBIDDEN` where there are fewer.
        place: int64, column of the grid. parent: int64, beam. edge: int64, taken from there.
        item: int64, that ends there, or 0.
    """

    score: str
    place: str
    parent: str
    edge: str
    item: str


class SiblingSearch(TrieSearch):
    """Builds the nodes of the search; see :class:`TrieSearch` for what it is made from.

    Args:
        ceiling: see :func:`podx_export.search.scores.room_above`.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        inputs: SearchInputs,
        item_filter: ItemFilter,
        levels: int,
        narrow: bool,
        ceiling: float,
    ) -> None:
        super().__init__(graph, inputs, item_filter, levels, narrow)
        self._ceiling = ceiling
        self._longest = graph.make("Sub", tables.LONGEST, graph.float_scalar(1.0))  # it counts an end of sequence

    def step(self, log_probs: str, beams: Beams, answers: Answers, step: int) -> tuple[Beams | None, Answers]:
        """Continue every beam by one token.

        Args:
            log_probs: float32 [batch, beams, children + 1], see :class:`podx_export.search.scores.SiblingScores`.
            step: 0 for the first.
        """
        grid = self.grid(log_probs, beams, step)
        if step + 1 == self._levels:
            return None, self.end(grid, answers)
        wanted = self._graph.make("Add", self._inputs.beams, self._graph.int_scalar(1))
        best = self._best(grid, wanted)
        following, answers = self._chosen(best, answers, step + 1, self._inputs.beams)
        if self._ceiling == 1 or step + 2 < self._levels:
            lost = self._graph.make("Gather", best.score, self._inputs.beams, axis=1)
        else:
            taken = self._graph.head(best.place, self._inputs.beams, 1)
            lost = self._without_places(self._reach(grid, step + 1), taken)
        lost = self._graph.reduce("ReduceMax", lost, 1, keepdims=0)
        return following, self._without(lost, answers, step + 1)

    def grid(self, log_probs: str, beams: Beams, step: int) -> Grid:
        """Sums of all continuations of the beams; see :meth:`step` for the arguments."""
        graph = self._graph
        reached = graph.make("Add", log_probs, graph.unsqueeze(beams.score, 2))
        grid = Grid(graph.make("Flatten", reached, axis=1), beams.node, graph.dimension(reached, 2))
        return replace(grid, scores=self._item_filter.apply(grid, step))

    def end(self, grid: Grid, answers: Answers) -> Answers:
        """All continuations are of the last level: the k best of them and the answers."""
        best = self._best(grid, self._inputs.k)
        divisor = self._length_divisor(self._graph.float_scalar(float(self._levels)))
        score = self._graph.make("Div", best.score, divisor)
        if self._levels == 1:
            return replace(answers, items=best.item, scores=score)
        return self._merged(answers, score, best.item)

    def _without(self, lost: str, answers: Answers, length: int) -> Answers:
        """Note the highest sum that was left out, float32 [batch]."""
        graph = self._graph
        bound = graph.make("Div", lost, self._best_length_divisor(length))
        return replace(answers, dropped=graph.make("Max", answers.dropped, bound))

    def _best(self, grid: Grid, wanted: str) -> _Continuations:
        """The ``wanted`` best permitted continuations of each user."""
        return self._at(grid, *self._top(grid.scores, wanted))

    def _at(self, grid: Grid, score: str, place: str) -> _Continuations:
        """Continuations in columns ``place`` of the grid."""
        graph = self._graph
        if self._levels == 1:  # the columns are the edges of the root
            parent, edge = "", place
        else:
            parent = graph.make("Div", place, grid.stride)
            offset = graph.make("Sub", place, graph.make("Mul", parent, grid.stride))
            safe = graph.make("Max", grid.node, graph.int_scalar(0))
            start = graph.cast(graph.make("Gather", tables.CHILD_START, safe), INT64)
            start = graph.widened(start, graph.int_scalar(0))
            edge = graph.make("Add", graph.make("GatherElements", start, parent, axis=1), offset)
        there = graph.make("Greater", score, graph.float_scalar(FORBIDDEN))
        edge = graph.make("Where", there, edge, graph.int_scalar(0))
        child = graph.make("Add", edge, graph.int_scalar(1))  # edge e leads to node e + 1
        item = graph.cast(graph.make("Gather", tables.NODE_ITEM, child), INT64)
        return _Continuations(score, place, parent, edge, graph.make("Where", there, item, graph.int_scalar(0)))

    def _chosen(self, best: _Continuations, answers: Answers, length: int, width: str) -> tuple[Beams, Answers]:
        """Of the first ``width`` continuations, those that reach a leaf become answers, and the others live on."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        score, parent, edge, item = (
            graph.head(value, width, 1) for value in (best.score, best.parent, best.edge, best.item)
        )
        answers = self._with_ended(score, item, answers, length)
        running = graph.make("Where", graph.make("Greater", item, graph.int_scalar(0)), forbidden, score)
        running = self._hopeful(running, answers, length + 1)
        score, index = graph.op("TopK", [running, width], outputs=2, axis=1)
        live = self._live_width(graph.make("Greater", score, forbidden))
        score, index = (graph.head(value, live, 1) for value in (score, index))
        parent, edge = (graph.make("GatherElements", value, index, axis=1) for value in (parent, edge))
        return self._beams(score, parent, edge), answers

    def _with_ended(self, score: str, item: str, answers: Answers, length: int) -> Answers:
        """The answers and the continuations that end an item."""
        graph = self._graph
        final = graph.make("Div", score, self._length_divisor(graph.float_scalar(float(length))))
        ends = graph.make("Greater", item, graph.int_scalar(0))
        return self._merged(answers, graph.make("Where", ends, final, graph.float_scalar(FORBIDDEN)), item)

    def _reach(self, grid: Grid, length: int) -> str:
        """Sums that no item which continues a grid of ``length`` tokens can exceed, in the form of its scores."""
        graph = self._graph
        if self._ceiling == 1 or length + 1 < self._levels:
            return grid.scores
        even = self._even_chances(grid)
        highest = graph.make("Add", even, room_above(graph, even, grid.scores, self._ceiling))
        most_gain = graph.make("Add", graph.make("Log", highest), graph.float_scalar(ROUNDING))
        return graph.make("Add", grid.scores, most_gain)

    def _even_chances(self, grid: Grid) -> str:
        """1/n where a continuation leads to a node of n children, in the form of the grid's scores."""
        graph, by_node = self._graph, even_chances(self._graph)
        first = graph.make("Gather", tables.CHILD_START, graph.make("Max", grid.node, graph.int_scalar(0)))
        child = graph.make("Add", graph.cast(graph.unsqueeze(first, 2), INT64), graph.arange(grid.stride))
        child = graph.make("Add", child, graph.int_scalar(1))  # edge e leads to node e + 1
        last = graph.make("Sub", graph.make("Shape", by_node), graph.int_scalar(1))
        return graph.make("Gather", by_node, graph.make("Flatten", graph.make("Min", child, last), axis=1))

    def _without_places(self, scores: str, place: str) -> str:
        """Scores of a grid less those in columns ``place``, and one column more."""
        graph = self._graph
        taken = graph.make("Expand", graph.float_scalar(FORBIDDEN), graph.make("Shape", place))
        return graph.make("ScatterElements", graph.widened(scores, graph.float_scalar(FORBIDDEN)), place, taken, axis=1)

    def _hopeful(self, running: str, answers: Answers, shortest: int, reach: str = "") -> str:
        """Sums of continuations below which an item of ``shortest`` tokens or more could enter the answers.

        Args:
            reach: see :meth:`_reach`; by default the sums themselves.
        """
        graph = self._graph
        worst = graph.make("Gather", answers.scores, graph.ints(-1), axis=1)
        bound = graph.make("Div", reach or running, self._best_length_divisor(shortest))
        return graph.make("Where", graph.make("Greater", bound, worst), running, graph.float_scalar(FORBIDDEN))

    def _beams(self, score: str, parent: str, edge: str) -> Beams:
        """Beams that follow ``edge`` from beams ``parent``; dead where the score is :data:`FORBIDDEN`."""
        graph = self._graph
        alive = graph.make("Greater", score, graph.float_scalar(FORBIDDEN))
        column = graph.cast(graph.make("Gather", tables.EDGE_COLUMN, edge), INT64)
        child = graph.make("Add", edge, graph.int_scalar(1))
        return Beams(score, graph.make("Where", alive, child, graph.int_scalar(DEAD)), column, parent)
