"""The search of one-pass models that ends when the answer is certain: ``recommend_exact.onnx``.

    first wave    a beam search, but narrow; its k-th answer is a score that the best k reach at least
    second wave   level by level, every prefix left behind whose sum still exceeds that score, and what follows from it

Log-probabilities only lower a sum, so what neither wave followed holds no better answer. A prefix that the second wave
follows has been scored by the first, whose decoder states it continues: nothing is decoded twice. How many prefixes
there are differs from user to user; the dense layers see the rows of all of them and no padding.
"""

from __future__ import annotations

from dataclasses import replace

from podx_export.blocks.graph import INT64, GraphBuilder
from podx_export.blocks.rows import least_rows
from podx_export.search.item_filter import FORBIDDEN, Grid, ItemFilter
from podx_export.search.sibling_search import SiblingSearch
from podx_export.search.trie_search import Answers, Beams, SearchInputs

WHOLE_FIRST_LEVEL = 64
"""The first wave follows all first tokens where there are so few."""


class ExactSearch(SiblingSearch):
    """Builds the nodes of both waves.

    Args:
        most: int64 [1], prefixes of a level that the second wave follows for a user at most. Where there are more, it
            follows the best, and the answer may be uncertain.
        first_whole: whether the first wave follows all first tokens. See :class:`SiblingSearch` for the others.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        inputs: SearchInputs,
        item_filter: ItemFilter,
        levels: int,
        ceiling: float,
        most: str,
        first_whole: bool,
    ) -> None:
        super().__init__(graph, inputs, item_filter, levels, True, ceiling)
        self._most, self._first_whole = most, first_whole

    @property
    def second_wave(self) -> range:
        """Steps of the second wave."""
        return range(2 if self._first_whole else 1, self._levels)

    def first(self, grid: Grid, answers: Answers, step: int) -> tuple[Beams, Answers, Grid]:
        """The best continuations as beams of the next step, and the grid without them."""
        graph, width = self._graph, self._inputs.beams
        if step == 0 and self._first_whole:
            width = graph.make("Max", width, graph.dimension(grid.scores, 1))
        best = self._best(grid, width)
        beams, answers = self._chosen(best, answers, step + 1, width)
        left = self._without_places(grid.scores, best.place)
        return beams, answers, replace(grid, scores=graph.head(left, graph.dimension(grid.scores, 1), 1))

    def second(self, grids: list[Grid], answers: Answers, step: int) -> tuple[Beams, Answers]:
        """All continuations that may still lead to an answer, as beams of ``step``.

        Args:
            grids: of the step before. Beams are numbered through them.
        """
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        scores, node = (graph.concat([getattr(grid, part) for grid in grids], axis=1) for part in ("scores", "node"))
        reach = graph.concat([self._reach(grid, step) for grid in grids], axis=1)
        hopeful = graph.widened(self._hopeful(scores, answers, step, reach), forbidden)
        count = graph.sum(graph.cast(graph.make("Greater", hopeful, forbidden), INT64), 1)
        most = graph.reduce("ReduceMax", count, 0, keepdims=1)
        width = graph.make("Max", graph.make("Min", most, self._most), graph.ints(1))
        score, place = graph.op("TopK", [hopeful, width], outputs=2, axis=1, sorted=0)
        best = self._at(Grid(scores, node, grids[0].stride), score, place)
        least = graph.reduce("ReduceMin", score, 1, keepdims=0)
        lost = graph.make("Where", graph.make("Greater", count, self._most), least, forbidden)
        answers = self._with_ended(score, best.item, self._without(lost, answers, step), step)
        running = graph.make("Where", graph.make("Greater", best.item, graph.int_scalar(0)), forbidden, score)
        alive = graph.make("Greater", running, forbidden)
        some = graph.make("Mul", width, graph.reduce("ReduceMax", graph.cast(alive, INT64), 1, keepdims=1))
        width = graph.make("Max", graph.reduce("ReduceMax", some, 0, keepdims=0), least_rows(graph))
        parent = graph.make("Where", alive, best.parent, graph.int_scalar(0))
        return self._beams(*(graph.head(value, width, 1) for value in (running, parent, best.edge))), answers
