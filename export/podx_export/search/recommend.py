"""``recommend.onnx``: the whole recommendation as one graph. Token ids in, item numbers and scores out.

    input_ids ── encoder ── K, V ─┐
    start token ── decoder step ──┴── trie walk ── TopK ──┬── decoder step ── trie walk ── TopK ── … ── items, scores
    excluded, allowed items ──────────────────────────────┘

The decoding steps are unrolled: as many as the longest item has tokens, and one for its end of sequence. There is no
If and no Loop. The first step runs one beam per user. The embedding of the decoder and the output layer hold only the
tokens of the catalog (ONNX Runtime gathers them once, when it loads the graph).

One-pass models start from each user's last token, score siblings, and have no step for an end of sequence.

``recommend_numbers.onnx`` is the same behind nodes that write the tokens (:mod:`podx_export.search.numbers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from podx.bundle import signature as sig
from podx.bundle import trie_tables as names
from podx.bundle.input_words import READ_TOKEN, WORD_OFFSETS, WORD_TOKENS
from podx.bundle.tables import TableFile
from podx.decoding.options import AUTO_BEAMS, CUDA_GRAPH_K, DEFAULT_BEAMS, DEFAULT_LENGTH_PENALTY, MOST_AUTO_BEAMS
from podx_export.blocks.decoder import TokenRows, decode_step, memory_bias
from podx_export.blocks.encoder import encode, source_inputs
from podx_export.blocks.graph import GraphBuilder
from podx_export.blocks.layers import embed
from podx_export.blocks.rows import BLOCK, AllRows, BeamRows, BlockRows, LiveRows, Rows, SingleBeam
from podx_export.blocks.self_attention import PathAttention, Position
from podx_export.blocks.source import SourceModel
from podx_export.blocks.weights import WeightStore
from podx_export.search.exact_search import WHOLE_FIRST_LEVEL, ExactSearch
from podx_export.search.item_filter import Grid, item_filter
from podx_export.search.numbers import written
from podx_export.search.scores import CatalogScores, SiblingScores
from podx_export.search.sibling_search import SiblingSearch
from podx_export.search.table_initializers import table_initializer
from podx_export.search.trie_search import Beams, SearchInputs, TrieSearch
from podx_export.search.words import Wording

PREPARED = 4096
"""Up to so many tokens of the catalog, or of a level where siblings are scored, get their rows for the decoder's first
layer at load."""


def build_recommender(
    model: SourceModel,
    weights: WeightStore,
    tables: TableFile,
    levels: int,
    precision: str,
    cuda_graph: bool = False,
    wording: Wording | None = None,
) -> GraphBuilder:
    """Graph of the whole search.

    Args:
        tables: the catalog (:func:`podx.bundle.trie_tables.search_tables`).
        levels: tokens of the longest item that the graph can walk to.
        cuda_graph: make it fit for a CUDA graph, whose shapes may not depend on values: beams, k and length penalty
            are constants, and dead beams are computed like live ones.
        wording: how requests are written, for a graph that is given numbers and writes them itself; None: it is given
            tokens.
    """
    graph = GraphBuilder("recommend", weights, precision)
    if wording is None:
        text = [graph.input(spec) for spec in source_inputs(model)]
    else:
        text = written(graph, wording, model.user_prompts is not None)
        for name in (READ_TOKEN,) if model.one_pass else (WORD_TOKENS, WORD_OFFSETS):
            graph.initializer(table_initializer(name, tables))
    excluded, allowed = (graph.input(spec) for spec in sig.filter_inputs())
    inputs = _fixed_inputs(graph) if cuda_graph else _search_inputs(graph)
    for name in names.SIBLING_TABLES if model.one_pass else names.SEARCH_TABLES:
        graph.initializer(table_initializer(name, tables))
    memory = encode(graph, model, text, packed=not cuda_graph and not graph.is_half)
    of_catalog = (graph, inputs, item_filter(graph, excluded, allowed, levels), levels, not cuda_graph)
    search = SiblingSearch(*of_catalog, model.ceiling) if model.one_pass else TrieSearch(*of_catalog)
    count = levels if model.one_pass else levels + 1
    decoder = _Decoder(graph, model, memory, count - 1, cuda_graph)
    steps: _Steps
    if model.one_pass:
        by_node = not cuda_graph and not graph.is_half  # GPUs multiply whole levels sooner than they sort
        steps = _SiblingSteps(graph, model, decoder, text, SiblingScores(graph, model, tables, levels, by_node))
    else:
        prepared = tables.place(names.OUTPUT_TOKENS).shape[0] <= PREPARED
        steps = _CatalogSteps(graph, model, decoder, text, prepared)
    beams, answers = search.start(graph.dimension(text[0], 0))
    following: Beams | None = beams
    for step in range(count):
        with graph.scope(f"step.{step}"):
            log_probs = steps.first() if step == 0 else steps.next(beams, step)
            following, answers = search.step(log_probs, beams, answers, step)
            beams = following or beams
    for spec, value in zip(sig.answer_tensors(), (answers.items, answers.scores, search.exact(answers)), strict=True):
        graph.output(spec, value)
    return graph


def _search_inputs(graph: GraphBuilder, default_beams: int = DEFAULT_BEAMS) -> SearchInputs:
    beams, k, penalty = sig.search_inputs()
    width = graph.optional_input(beams, np.array([default_beams], dtype=np.int64))
    wanted = graph.optional_input(k, np.array([CUDA_GRAPH_K], dtype=np.int64))
    return SearchInputs(
        beams=graph.make("Max", width, wanted),  # fewer beams than answers could end in fewer answers
        k=wanted,
        penalty=graph.optional_input(penalty, np.array([DEFAULT_LENGTH_PENALTY], dtype=np.float32)),
    )


def _fixed_inputs(graph: GraphBuilder) -> SearchInputs:
    penalty = graph.weight("penalty", np.array([DEFAULT_LENGTH_PENALTY], dtype=np.float32))
    return SearchInputs(graph.ints(DEFAULT_BEAMS), graph.ints(CUDA_GRAPH_K), penalty)


def build_exact_recommender(
    model: SourceModel, weights: WeightStore, tables: TableFile, levels: int, precision: str
) -> GraphBuilder:
    """Graph of the search that ends when the answer is certain (:mod:`podx_export.search.exact_search`).

    Args:
        model: a one-pass model. See :func:`build_recommender` for the others.
    """
    graph = GraphBuilder("recommend_exact", weights, precision)
    text = [graph.input(spec) for spec in source_inputs(model)]
    excluded, allowed = (graph.input(spec) for spec in sig.filter_inputs())
    inputs = _search_inputs(graph, AUTO_BEAMS)
    most = graph.optional_input(sig.most_beams_input(), np.array([MOST_AUTO_BEAMS], dtype=np.int64))
    for name in names.SIBLING_TABLES:
        graph.initializer(table_initializer(name, tables))
    memory = encode(graph, model, text, packed=not graph.is_half)
    scores = SiblingScores(graph, model, tables, levels, by_node=not graph.is_half)
    first_whole = scores.level_sizes[0] <= WHOLE_FIRST_LEVEL
    permitted = item_filter(graph, excluded, allowed, levels)
    search = ExactSearch(graph, inputs, permitted, levels, model.ceiling, most, first_whole)
    decoder = _Decoder(graph, model, memory, levels - 1, False)
    steps = _SiblingSteps(graph, model, decoder, text, scores)
    beams, answers = search.start(graph.dimension(text[0], 0))
    left: list[Grid] = []  # of each step of the first wave, what it did not follow
    marks: list[_Mark] = []  # where the decoder stood
    for step in range(levels):
        with graph.scope(f"step.{step}"):
            log_probs = steps.first() if step == 0 else steps.next(beams, step)
            grid = search.grid(log_probs, beams, step)
            marks.append(decoder.mark)
            if step + 1 < levels:
                beams, answers, rest = search.first(grid, answers, step)
                left.append(rest)
            else:
                answers = search.end(grid, answers)
    more: list[tuple[Grid, _Mark]] = []  # of the step before in the second wave
    for step in search.second_wave:
        with graph.scope(f"more.{step}"):
            before = [(left[step - 1], marks[step - 1]), *more]
            beams, answers = search.second([grid for grid, _ in before], answers, step)
            decoder.resume([mark for _, mark in before])
            grid = search.grid(steps.next(beams, step), beams, step)
            more = [(grid, decoder.mark)]
            if step + 1 == levels:
                answers = search.end(grid, answers)
    for spec, value in zip(sig.answer_tensors(), (answers.items, answers.scores, search.exact(answers)), strict=True):
        graph.output(spec, value)
    return graph


class _Steps(Protocol):
    """The decoding steps, one after another."""

    def first(self) -> str:
        """Log-probabilities after the start token, one beam per user."""

    def next(self, beams: Beams, step: int) -> str:
        """Log-probabilities after one more token of every live beam, float32 [batch, beams, …]."""


class _CatalogSteps:
    """Every user starts from the same token; all the catalog's tokens are scored."""

    def __init__(
        self, graph: GraphBuilder, model: SourceModel, decoder: _Decoder, text: list[str], prepared: bool
    ) -> None:
        self._graph, self._model, self._decoder, self._ids = graph, model, decoder, text[0]
        self._scores, self._prepared = CatalogScores(graph, model), prepared

    def first(self) -> str:
        """See :class:`_Steps`."""
        graph = self._graph
        start = embed(graph, "embedding", self._model.embedding, graph.ints(self._model.start_token))
        shape = graph.concat([graph.dimension(self._ids, 0), graph.ints(self._model.width)], axis=0)
        return self._scores.of(*self._decoder.first(graph.make("Expand", start, shape)))

    def next(self, beams: Beams, step: int) -> str:
        """See :class:`_Steps`."""
        graph = self._graph
        rows = self._decoder.follow(beams)
        column, table = rows.pick(graph, beams.column), self._scores.tokens
        if self._prepared:
            tokens = TokenRows.of(graph, self._model, table, constant=True).pick(graph, column)
        else:
            tokens = TokenRows.of(graph, self._model, graph.make("Gather", table, column))
        return self._scores.of(self._decoder.states(tokens, rows, beams), rows)


class _SiblingSteps:
    """Every user starts from the last token read; the children of each beam's node are scored."""

    def __init__(
        self, graph: GraphBuilder, model: SourceModel, decoder: _Decoder, text: list[str], scores: SiblingScores
    ) -> None:
        self._graph, self._model, self._decoder, self._scores = graph, model, decoder, scores
        self._ids, _, self._mask, *_ = text

    def first(self) -> str:
        """See :class:`_Steps`."""
        graph = self._graph
        count = graph.make("ReduceSum", self._mask, graph.ints(1), keepdims=1)
        last = graph.make("Max", graph.make("Sub", count, graph.int_scalar(1)), graph.int_scalar(0))
        token = graph.make("Squeeze", graph.make("GatherElements", self._ids, last, axis=1), graph.ints(1))
        states, _ = self._decoder.first(embed(graph, "embedding", self._model.embedding, token))
        return self._scores.of_root(states)

    def next(self, beams: Beams, step: int) -> str:
        """See :class:`_Steps`."""
        rows = self._decoder.follow(beams)
        states = self._decoder.states(self._tokens(rows, beams, step), rows, beams)
        return self._scores.of(states, rows, beams.node, beams.score, step)

    def _tokens(self, rows: BeamRows, beams: Beams, step: int) -> TokenRows:
        """What each beam reads. A level of few tokens is prepared for the first layer at load."""
        graph = self._graph
        if self._scores.level_sizes[step - 1] > PREPARED:
            token = graph.make("Gather", graph.indices(names.OUTPUT_TOKENS), rows.pick(graph, beams.column))
            return TokenRows.of(graph, self._model, embed(graph, "embedding", self._model.embedding, token))
        of_level = embed(graph, "embedding", self._model.embedding, graph.indices(names.level_tokens(step - 1)))
        edge = graph.make("Sub", rows.pick(graph, beams.node), graph.int_scalar(1))  # edge e leads to node e + 1
        edge = graph.make("Max", edge, graph.int_scalar(0))  # of a dead beam: any
        column = graph.make("Gather", names.LEVEL_COLUMN, edge)
        return TokenRows.of(graph, self._model, of_level, constant=True).pick(graph, column)


@dataclass(frozen=True)
class _Mark:
    """Where the decoder stands after a step.

    Attributes:
        row: int64 [batch, beams], row of each beam among those of the step.
        position: the rows.
    """

    row: str
    position: Position


class _Decoder:
    """The decoder's layers, step after step."""

    def __init__(self, graph: GraphBuilder, model: SourceModel, memory: list[str], last: int, cuda_graph: bool) -> None:
        self._graph, self._model, self._cuda_graph = graph, model, cuda_graph
        self._mask, self._memory = memory[0], memory[1:]
        self._attention = PathAttention(model, last)
        self._row = ""  # row of each beam of the last step, int64 [batch, beams]
        self._resumed = False  # from then on users have very different numbers of beams

    def first(self, hidden: str) -> tuple[str, Rows]:
        """One beam per user: embedded tokens [batch, d] → states, and how they are laid out."""
        graph, rows = self._graph, SingleBeam()
        graph.zeros = ""
        self._row = self._attention.start(graph, graph.dimension(hidden, 0))
        tokens = TokenRows.of(graph, self._model, hidden, query=False, alone=self._attention.alone)
        return self._run(tokens, rows, graph.ints(1)), rows

    @property
    def mark(self) -> _Mark:
        """Where it stands."""
        return _Mark(self._row, self._attention.position)

    def resume(self, marks: Sequence[_Mark]) -> None:
        """Stand where it stood after some steps of the same number: what follows continues the beams of them all."""
        graph, rows, before = self._graph, [marks[0].row], self._graph.dimension(marks[0].position.path, 0)
        self._attention.position = Position.joined(graph, [mark.position for mark in marks])
        for mark in marks[1:]:
            rows.append(graph.make("Add", mark.row, before))
            before = graph.make("Add", before, graph.dimension(mark.position.path, 0))
        self._row, self._resumed = graph.concat(rows, axis=1), True

    def follow(self, beams: Beams) -> BeamRows:
        """How the beams of the next step are laid out."""
        graph = self._graph
        graph.zeros = ""
        alive = graph.make("GreaterOrEqual", beams.node, graph.int_scalar(0))
        rows: BeamRows = AllRows.of(graph, alive, DEFAULT_BEAMS) if self._cuda_graph else LiveRows.of(graph, alive)
        parent = graph.make("GatherElements", self._row, beams.parent, axis=1)
        self._attention.follow(graph, rows.pick(graph, parent))
        self._row = rows.row
        return rows

    def states(self, tokens: TokenRows, rows: BeamRows, beams: Beams) -> str:
        """What the beams read → states, both as ``rows`` (of :meth:`follow`) says."""
        graph = self._graph
        width = graph.dimension(beams.node, 1)
        if not (self._resumed and isinstance(rows, LiveRows)):
            return self._run(tokens, rows, width)
        owner = graph.make("Div", rows.beam, graph.make("Max", width, graph.int_scalar(1)))
        shape = self._model.shape
        blocks = BlockRows.of(graph, owner, graph.dimension(beams.node, 0), shape.heads * shape.head_dim)
        mask, *memory = (graph.make("Gather", part, blocks.user) for part in (self._mask, *self._memory))
        bias = memory_bias(graph, mask, graph.ints(BLOCK))
        return decode_step(graph, self._model, tokens, blocks, self._attention, memory, bias)

    def _run(self, tokens: TokenRows, rows: Rows, beams: str) -> str:
        mask = memory_bias(self._graph, self._mask, beams)
        return decode_step(self._graph, self._model, tokens, rows, self._attention, self._memory, mask)
