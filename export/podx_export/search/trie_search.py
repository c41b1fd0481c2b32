"""One step of the beam search inside the catalog's trie, as nodes of a graph.

The counterpart of :mod:`podx.decoding.items`: of the 2·beams best continuations of a user, those among the first
``beams`` that end an item are answers, the first ``beams`` that do not end live on. The children of a node are a range
of edges; a grid as wide as the level's widest node holds them, so a step costs the same for ten thousand items and for
ten million (the vectorised walk of STATIC, arXiv 2602.22647).
"""

from __future__ import annotations

from dataclasses import dataclass

from podx.bundle import trie_tables as tables
from podx_export.blocks.graph import INT64, INT64_MAX, GraphBuilder
from podx_export.blocks.rows import least_rows
from podx_export.search.item_filter import FORBIDDEN, Grid, ItemFilter

DEAD = -1
"""Node of a dead beam."""


@dataclass(frozen=True)
class SearchInputs:
    """Values that hold for all steps: ``beams``, ``k`` int64 [1]; ``penalty`` float32 [1]."""

    beams: str
    k: str
    penalty: str


@dataclass(frozen=True)
class Beams:
    """Live beams of every user, best first, each [batch, beams].

    Attributes:
        score: float32, sum of log-probabilities; :data:`FORBIDDEN` where dead.
        node: int64, place in the trie; :data:`DEAD` where dead.
        column: int64, token last chosen, by its place among the output tokens.
        parent: int64, beam of the step before that this one continues.
    """

    score: str
    node: str
    column: str
    parent: str


@dataclass(frozen=True)
class Answers:
    """Best first. ``items`` int64, ``scores`` float32 [batch, k]; ``dropped``: see :meth:`TrieSearch.exact`."""

    items: str
    scores: str
    dropped: str


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each user, each [batch, 2·beams + 1].

    ``parent``: beam; ``offset``: place among the parent's edges; ``ends``: whether it ends ``item``.
    """

    score: str
    parent: str
    offset: str
    ends: str
    item: str


class TrieSearch:
    """Builds the nodes of the search.

    Args:
        inputs: width and length penalty.
        item_filter: permitted items.
        levels: tokens of the longest item that the graph can walk to.
        narrow: let the beam axis shrink to the widest user; shapes then depend on values.
    """

    def __init__(
        self, graph: GraphBuilder, inputs: SearchInputs, item_filter: ItemFilter, levels: int, narrow: bool
    ) -> None:
        self._graph, self._inputs, self._item_filter = graph, inputs, item_filter
        self._levels, self._narrow = levels, narrow
        self._longest = tables.LONGEST
        self._long_items_gain = graph.make("Greater", inputs.penalty, graph.float_scalar(0.0))
        two = graph.make("Mul", inputs.beams, graph.int_scalar(2))
        self._wanted = graph.make("Add", two, graph.int_scalar(1))

    def start(self, batch: str) -> tuple[Beams, Answers]:
        """One beam per user at the root, and no answers. ``batch``: int64 [1]."""
        graph = self._graph
        one_beam = graph.concat([batch, graph.ints(1)], axis=0)
        zeros = graph.make("Expand", graph.int_scalar(0), one_beam)
        beams = Beams(graph.make("Expand", graph.float_scalar(0.0), one_beam), zeros, zeros, zeros)
        shape = graph.concat([batch, self._inputs.k], axis=0)
        forbidden = graph.float_scalar(FORBIDDEN)
        answers = Answers(
            graph.make("Expand", graph.int_scalar(0), shape),
            graph.make("Expand", forbidden, shape),
            graph.make("Expand", forbidden, batch),
        )
        return beams, answers

    def step(self, log_probs: str, beams: Beams, answers: Answers, step: int) -> tuple[Beams | None, Answers]:
        """Continue every beam by one token.

        Args:
            log_probs: float32 [batch, beams, output tokens], of the next token.
            step: 0 for the first. In the last one only ends are looked for.
        """
        graph, length = self._graph, step + 1
        last = step == self._levels
        safe = graph.make("Max", beams.node, graph.int_scalar(0))
        item = graph.cast(graph.make("Gather", tables.NODE_ITEM, safe), INT64)
        start = graph.cast(graph.make("Gather", tables.CHILD_START, safe), INT64)
        ended = self._endings(log_probs, beams, item)
        if last:
            scores, stride = graph.make("Flatten", ended, axis=1), graph.ints(1)
        else:
            scores, stride = self._candidates(log_probs, beams, safe, start, ended, step)
        item, start = (graph.widened(values, graph.int_scalar(0)) for values in (item, start))
        best = self._best_candidates(scores, stride, item)
        answers = self._collect(best, answers, length)
        if last:
            return None, answers
        return self._live_beams(best, answers, start, length)

    # --- candidates -----------------------------------------------------------------------------------------------

    def _endings(self, log_probs: str, beams: Beams, item: str) -> str:
        """Score of ending here, [batch, beams, 1]."""
        graph = self._graph
        end = graph.make("Gather", log_probs, graph.indices(tables.END_COLUMN), axis=2)
        reached = graph.make("Add", end, graph.unsqueeze(beams.score, 2))
        may_end = graph.unsqueeze(self._item_filter.may_return(item), 2)
        return graph.make("Where", may_end, reached, graph.float_scalar(FORBIDDEN))

    def _candidates(
        self, log_probs: str, beams: Beams, node: str, start: str, ended: str, step: int
    ) -> tuple[str, str]:
        """All continuations: [batch, beams·stride], per beam children, an unused column, end; the stride."""
        graph = self._graph
        forbidden = graph.float_scalar(FORBIDDEN)
        after = graph.make("Gather", tables.CHILD_START, graph.make("Add", node, graph.int_scalar(1)))
        places = tables.widest(step)
        first = graph.unsqueeze(graph.make("Gather", tables.CHILD_START, node), 2)
        edge = graph.make("Add", first, places)
        there = graph.make("Less", edge, graph.unsqueeze(after, 2))
        edge = graph.make("Where", there, edge, graph.int32_scalar(0))
        column = graph.make("Gather", tables.EDGE_COLUMN, edge)
        gain = graph.make("GatherElements", log_probs, column, axis=2)
        reached = graph.make("Where", there, graph.make("Add", gain, graph.unsqueeze(beams.score, 2)), forbidden)
        unused = graph.make("Expand", forbidden, graph.make("Shape", ended))
        children = graph.concat([reached, unused], axis=2)
        width = graph.dimension(children, 2)
        grid = Grid(graph.make("Flatten", children, axis=1), beams.node, width)
        filtered = self._item_filter.apply(grid, step)
        children = graph.make("Reshape", filtered, graph.make("Shape", children), allowzero=1)
        whole = graph.concat([children, ended], axis=2)
        return graph.make("Flatten", whole, axis=1), graph.dimension(whole, 2)

    def _best_candidates(self, scores: str, stride: str, item: str) -> _Candidates:
        """The 2·beams + 1 best."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        value, index = self._top(scores, self._wanted)
        parent = graph.make("Div", index, stride)
        offset = graph.make("Sub", index, graph.make("Mul", parent, stride))
        at_end = graph.make("Equal", offset, graph.make("Sub", stride, graph.int_scalar(1)))
        ends = graph.make("And", at_end, graph.make("Greater", value, forbidden))
        return _Candidates(value, parent, offset, ends, graph.make("GatherElements", item, parent, axis=1))

    def _top(self, scores: str, wanted: str) -> tuple[str, str]:
        """The ``wanted`` (int64 [1]) best of each row and their places; :data:`FORBIDDEN` and 0 fill up."""
        graph = self._graph
        count = graph.make("Min", wanted, graph.dimension(scores, 1))
        value, index = graph.op("TopK", [scores, count], outputs=2, axis=1)
        missing = graph.make("Sub", wanted, count)
        shape = graph.concat([graph.dimension(scores, 0), missing], axis=0)
        value = graph.concat([value, graph.make("Expand", graph.float_scalar(FORBIDDEN), shape)], axis=1)
        return value, graph.concat([index, graph.make("Expand", graph.int_scalar(0), shape)], axis=1)

    # --- answers --------------------------------------------------------------------------------------------------

    def _collect(self, best: _Candidates, answers: Answers, length: int) -> Answers:
        """Keep what ends an item among the first ``beams`` continuations, with the earlier answers, best first."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        place = graph.arange(self._wanted)
        accepted = graph.make("And", best.ends, graph.make("Less", place, self._inputs.beams))
        final = graph.make("Div", best.score, self._length_divisor(graph.float_scalar(float(length))))
        score = graph.make("Where", accepted, final, forbidden)
        item = graph.make("Where", accepted, best.item, graph.int_scalar(0))
        refused = graph.make("And", best.ends, graph.make("Not", accepted))
        lost = graph.reduce("ReduceMax", graph.make("Where", refused, final, forbidden), 1, keepdims=0)
        answers = self._merged(answers, score, item)
        return Answers(answers.items, answers.scores, graph.make("Max", answers.dropped, lost))

    def _merged(self, answers: Answers, score: str, item: str) -> Answers:
        """The k best of the answers and more of them; those with score :data:`FORBIDDEN` are none."""
        graph = self._graph
        scores = graph.concat([answers.scores, score], axis=1)
        top, index = graph.op("TopK", [scores, self._inputs.k], outputs=2, axis=1)
        items = graph.make("GatherElements", graph.concat([answers.items, item], axis=1), index, axis=1)
        return Answers(items, top, answers.dropped)

    def _length_divisor(self, length: str) -> str:
        """length^penalty, float32 [1]."""
        return self._graph.make("Pow", length, self._inputs.penalty)

    def _best_length_divisor(self, shortest: int) -> str:
        """length^penalty at the length, ``shortest`` or more, that gives a sum its best score; float32 [1]."""
        graph = self._graph
        length = graph.make("Where", self._long_items_gain, self._longest, graph.float_scalar(float(shortest)))
        return self._length_divisor(length)

    def _live_beams(self, best: _Candidates, answers: Answers, start: str, length: int) -> tuple[Beams, Answers]:
        """The first ``beams`` continuations that do not end, less those that can no longer enter the answers."""
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        running = graph.make("Where", best.ends, forbidden, best.score)
        count = graph.make("Add", self._inputs.beams, graph.int_scalar(1))
        score, index = graph.op("TopK", [running, count], outputs=2, axis=1)
        lost = graph.make("Slice", score, self._inputs.beams, graph.ints(INT64_MAX), graph.ints(1))
        bound = graph.make("Div", graph.make("Squeeze", lost, graph.ints(1)), self._best_length_divisor(length))
        answers = Answers(answers.items, answers.scores, graph.make("Max", answers.dropped, bound))
        score = graph.head(score, self._inputs.beams, 1)
        worst = graph.make("Gather", answers.scores, graph.ints(-1), axis=1)
        hopeful = graph.make("Greater", graph.make("Div", score, self._best_length_divisor(length + 1)), worst)
        alive = graph.make("And", hopeful, graph.make("Greater", score, forbidden))
        width = self._live_width(alive)
        score, alive, index = (graph.head(value, width, 1) for value in (score, alive, index))
        parent, offset = (graph.make("GatherElements", value, index, axis=1) for value in (best.parent, best.offset))
        edge = graph.make("Add", graph.make("GatherElements", start, parent, axis=1), offset)
        edge = graph.make("Where", alive, edge, graph.int_scalar(0))
        column = graph.cast(graph.make("Gather", tables.EDGE_COLUMN, edge), INT64)
        child = graph.make("Add", edge, graph.int_scalar(1))  # edge e leads to node e + 1
        node = graph.make("Where", alive, child, graph.int_scalar(DEAD))
        return Beams(graph.make("Where", alive, score, forbidden), node, column, parent), answers

    def _live_width(self, alive: str) -> str:
        """Beams to go on with, int64 [1]: as many as the user with most has alive. ``alive``: bool [batch, beams]."""
        if not self._narrow:
            return self._inputs.beams
        graph = self._graph
        width = graph.reduce("ReduceMax", graph.sum(graph.cast(alive, INT64), 1), 0, keepdims=1)
        return graph.make("Max", width, least_rows(graph))

    def exact(self, answers: Answers) -> str:
        """Whether the answers are the model's k best for certain: bool [batch].

        Log-probabilities only lower a sum, so nothing below a continuation that was dropped can score higher than its
        sum divided by the best length^penalty. ``answers.dropped`` is the highest of these bounds.
        """
        graph, forbidden = self._graph, self._graph.float_scalar(FORBIDDEN)
        worst = graph.make("Squeeze", graph.make("Gather", answers.scores, graph.ints(-1), axis=1), graph.ints(1))
        nothing = graph.make("Equal", answers.dropped, forbidden)
        return graph.make("Or", nothing, graph.make("Greater", worst, answers.dropped))
