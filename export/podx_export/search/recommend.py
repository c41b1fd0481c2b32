"""``recommend.onnx``: the whole recommendation as one graph. Token ids in, item numbers and scores out.

    input_ids ── encoder ── K, V ─┐
    start token ── decoder step ──┴── trie walk ── TopK ──┬── decoder step ── trie walk ── TopK ── … ── items, scores
    excluded, allowed items ──────────────────────────────┘

The decoding steps are unrolled: as many as the longest item has tokens, and one for its end of sequence. There is no
If and no Loop. The first step runs one beam per user. The embedding of the decoder and the output layer hold only the
tokens of the catalog (ONNX Runtime gathers them once, when it loads the graph).
"""

from __future__ import annotations

import numpy as np

from podx.bundle import signature as sig
from podx.bundle import trie_tables as names
from podx.bundle.tables import TableFile
from podx.decoding.options import CUDA_GRAPH_K, DEFAULT_BEAMS, DEFAULT_LENGTH_PENALTY
from podx_export.blocks.decoder import decode_step, memory_bias
from podx_export.blocks.encoder import encode, source_inputs
from podx_export.blocks.graph import GraphBuilder
from podx_export.blocks.layers import embed
from podx_export.blocks.rows import AllRows, BeamRows, LiveRows, Rows, SingleBeam
from podx_export.blocks.self_attention import PathAttention
from podx_export.blocks.source import SourceModel
from podx_export.blocks.weights import WeightStore
from podx_export.search.item_filter import ItemFilter
from podx_export.search.table_initializers import table_initializer
from podx_export.search.trie_search import Beams, SearchInputs, TrieSearch


def build_recommender(
    model: SourceModel, weights: WeightStore, tables: TableFile, levels: int, precision: str, cuda_graph: bool = False
) -> GraphBuilder:
    """Graph of the whole search.

    Args:
        tables: the catalog (:func:`podx.bundle.trie_tables.search_tables`).
        levels: tokens of the longest item that the graph can walk to.
        cuda_graph: make it fit for a CUDA graph, whose shapes may not depend on values: beams, k and length penalty
            are constants, and dead beams are computed like live ones.
    """
    graph = GraphBuilder("recommend", weights, precision)
    text = [graph.input(spec) for spec in source_inputs(model)]
    excluded, allowed = (graph.input(spec) for spec in sig.filter_inputs())
    inputs = _fixed_inputs(graph) if cuda_graph else _search_inputs(graph)
    for name in names.SEARCH_TABLES:
        graph.initializer(table_initializer(name, tables))
    memory = encode(graph, model, text)
    search = TrieSearch(graph, inputs, ItemFilter(graph, excluded, allowed, levels), levels, not cuda_graph)
    steps = _Steps(graph, model, memory, levels, cuda_graph)
    batch = graph.dimension(text[0], 0)
    beams, answers = search.start(batch)
    following: Beams | None = beams
    for step in range(levels + 1):
        with graph.scope(f"step.{step}"):
            log_probs = steps.first(batch) if step == 0 else steps.next(beams)
            following, answers = search.step(log_probs, beams, answers, step)
            beams = following or beams
    for spec, value in zip(sig.answer_tensors(), (answers.items, answers.scores, search.exact(answers)), strict=True):
        graph.output(spec, value)
    return graph


def _search_inputs(graph: GraphBuilder) -> SearchInputs:
    beams, k, penalty = sig.search_inputs()
    width = graph.optional_input(beams, np.array([DEFAULT_BEAMS], dtype=np.int64))
    wanted = graph.optional_input(k, np.array([CUDA_GRAPH_K], dtype=np.int64))
    return SearchInputs(
        beams=graph.make("Max", width, wanted),  # fewer beams than answers could end in fewer answers
        k=wanted,
        penalty=graph.optional_input(penalty, np.array([DEFAULT_LENGTH_PENALTY], dtype=np.float32)),
    )


def _fixed_inputs(graph: GraphBuilder) -> SearchInputs:
    penalty = graph.weight("penalty", np.array([DEFAULT_LENGTH_PENALTY], dtype=np.float32))
    return SearchInputs(graph.ints(DEFAULT_BEAMS), graph.ints(CUDA_GRAPH_K), penalty)


class _Steps:
    """The decoding steps, one after another."""

    def __init__(self, graph: GraphBuilder, model: SourceModel, memory: list[str], last: int, cuda_graph: bool) -> None:
        self._graph, self._model, self._cuda_graph = graph, model, cuda_graph
        self._mask, self._memory = memory[0], memory[1:]
        self._attention = PathAttention(model, last)
        self._row = ""  # row of each beam of the last step, int64 [batch, beams]
        output_tokens = graph.indices(names.OUTPUT_TOKENS)
        self._tokens = embed(graph, "embedding", model.embedding, output_tokens)
        tied = model.output is model.embedding
        self._output = self._tokens if tied else embed(graph, "output", model.output, output_tokens)
        self._start = embed(graph, "embedding", model.embedding, graph.ints(model.start_token))

    def first(self, batch: str) -> str:
        """The start token, one beam per user: → [batch, 1, output tokens]."""
        graph = self._graph
        shape = graph.concat([batch, graph.ints(self._model.width)], axis=0)
        self._row = self._attention.start(graph, batch)
        return self._run(graph.make("Expand", self._start, shape), SingleBeam(), graph.ints(1))

    def next(self, beams: Beams) -> str:
        """One more token of every live beam: → [batch, beams, output tokens]."""
        graph = self._graph
        alive = graph.make("GreaterOrEqual", beams.node, graph.int_scalar(0))
        rows: BeamRows = AllRows.of(graph, alive, DEFAULT_BEAMS) if self._cuda_graph else LiveRows.of(graph, alive)
        parent = graph.make("GatherElements", self._row, beams.parent, axis=1)
        self._attention.follow(graph, rows.pick(graph, parent))
        self._row = rows.row
        hidden = graph.make("Gather", self._tokens, rows.pick(graph, beams.column))
        return self._run(hidden, rows, graph.dimension(beams.node, 1))

    def _run(self, hidden: str, rows: Rows, beams: str) -> str:
        graph = self._graph
        mask = memory_bias(graph, self._mask, beams)
        final = decode_step(graph, self._model, hidden, rows, self._attention, self._memory, mask)
        logits = graph.make("Gemm", final, self._output, transB=1)
        return rows.spread(graph, graph.make("LogSoftmax", logits, axis=-1))
