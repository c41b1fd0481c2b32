"""One step of the search where scores are over siblings: an item ends with its last token.

The counterpart of :mod:`podx.decoding.items` for one-pass models: of the ``beams`` best continuations of a user, those
that reach a leaf are answers and the others live on. At the last level all are answers, so only the k best are looked
for; of a catalog of one token an item that is the whole search, and it is exhaustive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import INT64, INT64_MAX, GraphBuilder
from podx_export.search.item_filter import FORBIDDEN, Grid, ItemFilter
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
    """Builds the nodes of the search; see :class:`TrieSearch` for what it is made from."""

    def __init__(
        self, graph: GraphBuilder, inputs: SearchInputs, item_filter: ItemFilter, levels: int, narrow: bool
    ) -> None:
        super().__init__(graph, inputs, item_filter, levels, narrow)
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
        lost = self._graph.make(
            "Slice", best.score, self._inputs.beams, self._graph.ints(INT64_MAX), self._graph.ints(1)
        )
        return following, self._without(self._graph.make("Squeeze", lost, self._graph.ints(1)), answers, step + 1)

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
        return self._merged(answers, self._graph.make("Div", best.score, divisor), best.item)

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
        parent = graph.make("Div", place, grid.stride)
        offset = graph.make("Sub", place, graph.make("Mul", parent, grid.stride))
        safe = graph.make("Max", grid.node, graph.int_scalar(0))
        start = self._with_extra_column(graph.cast(graph.make("Gather", tables.CHILD_START, safe), INT64))
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

    def _hopeful(self, running: str, answers: Answers, shortest: int) -> str:
        """Sums of continuations below which an item of ``shortest`` tokens or more could enter the answers."""
        graph = self._graph
        worst = graph.make("Gather", answers.scores, graph.ints(-1), axis=1)
        bound = graph.make("Div", running, self._best_length_divisor(shortest))
        return graph.make("Where", graph.make("Greater", bound, worst), running, graph.float_scalar(FORBIDDEN))

    def _beams(self, score: str, parent: str, edge: str) -> Beams:
        """Beams that follow ``edge`` from beams ``parent``; dead where the score is :data:`FORBIDDEN`."""
        graph = self._graph
        alive = graph.make("Greater", score, graph.float_scalar(FORBIDDEN))
        column = graph.cast(graph.make("Gather", tables.EDGE_COLUMN, edge), INT64)
        child = graph.make("Add", edge, graph.int_scalar(1))
        return Beams(score, graph.make("Where", alive, child, graph.int_scalar(DEAD)), column, parent)
