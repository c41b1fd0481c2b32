"""One step of the search where scores are over siblings: an item ends with its last token.

The counterpart of :mod:`podx.decoding.items` for one-pass models: of the ``beams`` best continuations of a user, those
that reach a leaf are answers and the others live on. At the last level all are answers, so only the k best are looked
for; of a catalog of one token an item that is the whole search, and it is exhaustive.
"""

from __future__ import annotations

from dataclasses import dataclass

from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import INT64, INT64_MAX, GraphBuilder
from podx_export.search.item_filter import FORBIDDEN, Grid, ItemFilter
from podx_export.search.trie_search import DEAD, Answers, Beams, SearchInputs, TrieSearch


@dataclass(frozen=True)
class _Continuations:
    """The best of each user, each [batch, wanted].

    Attributes:
        score: float32, sum of log-probabilities; :data:`FORBIDDEN` where there are fewer.
        parent: int64, beam. edge: int64, taken from there. item: int64, that ends there, or 0.
    """

    score: str
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
        graph, inputs, length = self._graph, self._inputs, step + 1
        last = length == self._levels
        wanted = inputs.k if last else graph.make("Add", inputs.beams, graph.int_scalar(1))
        best = self._best(log_probs, beams, step, wanted)
        divisor = self._length_divisor(graph.float_scalar(float(length)))
        final = graph.make("Div", best.score, divisor)
        if last:
            return None, self._merged(answers, final, best.item)
        lost = graph.make("Slice", best.score, inputs.beams, graph.ints(INT64_MAX), graph.ints(1))
        bound = graph.make("Div", graph.make("Squeeze", lost, graph.ints(1)), self._best_length_divisor(length))
        answers = Answers(answers.items, answers.scores, graph.make("Max", answers.dropped, bound))
        score, final, parent, edge, item = (
            graph.head(value, inputs.beams, 1) for value in (best.score, final, best.parent, best.edge, best.item)
        )
        ends = graph.make("Greater", item, graph.int_scalar(0))
        forbidden = graph.float_scalar(FORBIDDEN)
        answers = self._merged(answers, graph.make("Where", ends, final, forbidden), item)
        running = graph.make("Where", ends, forbidden, score)
        return self._going_on(running, parent, edge, answers, length), answers

    def _best(self, log_probs: str, beams: Beams, step: int, wanted: str) -> _Continuations:
        """The ``wanted`` best permitted continuations of each user."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        reached = graph.make("Add", log_probs, graph.unsqueeze(beams.score, 2))
        stride = graph.dimension(reached, 2)
        scores = self._item_filter.apply(Grid(graph.make("Flatten", reached, axis=1), beams.node, stride), step)
        score, index = self._top(scores, wanted)
        parent = graph.make("Div", index, stride)
        offset = graph.make("Sub", index, graph.make("Mul", parent, stride))
        safe = graph.make("Max", beams.node, graph.int_scalar(0))
        start = self._with_extra_column(graph.cast(graph.make("Gather", tables.CHILD_START, safe), INT64))
        edge = graph.make("Add", graph.make("GatherElements", start, parent, axis=1), offset)
        there = graph.make("Greater", score, forbidden)
        edge = graph.make("Where", there, edge, graph.int_scalar(0))
        child = graph.make("Add", edge, graph.int_scalar(1))  # edge e leads to node e + 1
        item = graph.cast(graph.make("Gather", tables.NODE_ITEM, child), INT64)
        return _Continuations(score, parent, edge, graph.make("Where", there, item, graph.int_scalar(0)))

    def _going_on(self, running: str, parent: str, edge: str, answers: Answers, length: int) -> Beams:
        """The beams that live on, less those that can no longer enter the answers."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        worst = graph.make("Gather", answers.scores, graph.ints(-1), axis=1)
        bound = graph.make("Div", running, self._best_length_divisor(length + 1))
        running = graph.make("Where", graph.make("Greater", bound, worst), running, forbidden)
        score, index = graph.op("TopK", [running, self._inputs.beams], outputs=2, axis=1)
        alive = graph.make("Greater", score, forbidden)
        width = self._live_width(alive)
        score, alive, index = (graph.head(value, width, 1) for value in (score, alive, index))
        parent, edge = (graph.make("GatherElements", value, index, axis=1) for value in (parent, edge))
        column = graph.cast(graph.make("Gather", tables.EDGE_COLUMN, edge), INT64)
        child = graph.make("Add", edge, graph.int_scalar(1))
        return Beams(score, graph.make("Where", alive, child, graph.int_scalar(DEAD)), column, parent)
