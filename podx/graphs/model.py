"""The exported model: the graph that does a whole search, or encoder and decoder graphs behind the search in numpy."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.decoding.items import ItemResults
from podx.decoding.options import (
    AUTO_BEAMS,
    CUDA_GRAPH_K,
    DEFAULT_BEAMS,
    DEFAULT_LENGTH_PENALTY,
    MOST_AUTO_BEAMS,
    ItemSearchOptions,
)
from podx.decoding.stepper import FloatArray, IntArray, TextStepper
from podx.decoding.text import WholeRows
from podx.errors import BundleError
from podx.graphs.apart import answered_apart
from podx.graphs.cuda_graph import CudaGraphRecommender, fits_buckets
from podx.graphs.int8_check import require_exact_products
from podx.graphs.opened_once import OpenedOnce
from podx.graphs.session import CPU, CUDA, GraphSession, HeldFiles, SessionOptions, select_rows
from podx.graphs.text_stepper import GraphTextStepper
from podx.requests.batch import ItemBatch
from podx.requests.encoder import allowed_row
from podx.text.inputs import UNKNOWN_USER, Batch, pad_rows

TEXT_DECODERS = (sig.TEXT_DECODER_FILE, sig.EXPLANATION_DECODER_FILE)
SPINNING = (sig.RECOMMEND_FILE, sig.EXACT_FILE, sig.NUMBERS_FILE, *TEXT_DECODERS)
"""Graphs that do nearly all the work of an answer."""


LEAST_USERS = 4
"""Of a part of a batch of texts."""


class GraphStepper:
    """The decoder graph as a search's stepper. The cache stays on the device.

    Args:
        decoder: the graph.
        memory: what the encoder graph gave for this batch (:func:`podx.bundle.signature.memory_tensors`).
        batch: users in it.
        output_tokens: tokens to score, int64 [tokens], for the decoder that scores items only; None for the other one.
    """

    def __init__(
        self,
        decoder: GraphSession,
        shape: sig.ModelShape,
        memory: Mapping[str, Any],
        batch: int,
        output_tokens: IntArray | None,
    ) -> None:
        self._decoder = decoder
        self._memory = dict(memory)
        self._present = [spec.name for spec in sig.present_tensors(shape)]
        self._past_names = [spec.name for spec in sig.past_tensors(shape)]
        empty = np.zeros((batch, shape.heads, 0, shape.head_dim), dtype=np.float32)
        self._past: dict[str, Any] = dict.fromkeys(self._past_names, empty)
        self._fixed = {} if output_tokens is None else {sig.OUTPUT_TOKENS: output_tokens}

    def step(self, tokens: IntArray, distance: IntArray) -> FloatArray:
        """See :class:`podx.decoding.stepper.Stepper`."""
        feeds = {sig.TOKENS: tokens, sig.DISTANCE: distance, **self._fixed, **self._memory, **self._past}
        outputs = self._decoder.run(feeds, to_host=[sig.LOG_PROBS])
        self._past = {past: outputs[present] for past, present in zip(self._past_names, self._present, strict=True)}
        scores: FloatArray = outputs[sig.LOG_PROBS]
        return scores

    def keep(self, users: IntArray) -> None:
        """See :class:`podx.decoding.stepper.Stepper`."""
        device = self._decoder.device
        self._memory = {name: select_rows(value, users, device) for name, value in self._memory.items()}
        self._past = {name: select_rows(value, users, device) for name, value in self._past.items()}


def _user_rows(batch: Batch) -> npt.NDArray[np.int64]:
    """Rows of the table of users' prompt vectors, [batch, user_neighbours]."""
    if batch.user_rows is not None:
        return batch.user_rows
    users = np.full(batch.size, UNKNOWN_USER, dtype=np.int64) if batch.users is None else batch.users
    return users[:, None]


def _text_feeds(batch: Batch, task_id: int, user_rows: bool) -> dict[str, npt.NDArray[np.int64]]:
    """What the encoder reads, see :func:`podx.bundle.signature.encoder_inputs`."""
    feeds = {
        sig.INPUT_IDS: batch.input_ids,
        sig.WHOLE_WORD_IDS: batch.whole_word_ids,
        sig.ATTENTION_MASK: batch.attention_mask,
        sig.TASK_ID: np.array([task_id] * batch.size, dtype=np.int64),
    }
    return feeds | {sig.USER_ROWS: _user_rows(batch)} if user_rows else feeds


def batch_feeds(batch: ItemBatch, user_rows: bool = False) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs of ``recommend.onnx`` that have no default. ``user_rows``: it has prompt vectors of each user."""
    return {
        **_text_feeds(batch.text, batch.task_id, user_rows),
        sig.EXCLUDED_ITEMS: pad_rows(batch.denied, sig.NO_NUMBER),
        sig.ALLOWED_ITEMS: pad_rows([allowed_row(items) for items in batch.allowed], sig.NO_NUMBER),
    }


def search_feeds(options: ItemSearchOptions, k: int) -> dict[str, npt.NDArray[np.generic]]:
    """The inputs of ``recommend.onnx`` that have a default. ``k``: answers wanted."""
    return {
        sig.BEAMS: np.array([options.width(k)], dtype=np.int64),
        sig.K: np.array([k], dtype=np.int64),
        sig.LENGTH_PENALTY: np.array([options.length_penalty], dtype=np.float32),
    }


def recommend_with(
    session: GraphSession, batch: ItemBatch, options: ItemSearchOptions, user_rows: bool = False
) -> ItemResults:
    """Run ``recommend.onnx`` on a batch.

    Args:
        options: scores must be over the catalog.
        user_rows: whether the graph has prompt vectors of each user.
    """
    feeds = {**batch_feeds(batch, user_rows), **search_feeds(options, batch.k)}
    return _results(session.run(feeds, to_host=session.outputs))


def _results(outputs: Mapping[str, npt.NDArray[Any]]) -> ItemResults:
    return ItemResults(outputs[sig.ITEMS], outputs[sig.SCORES], outputs[sig.EXACT])


class _Graphs:
    """Opens a bundle's graphs: by path, or from what the files held once :attr:`held` says so.

    It knows nothing of the model, or the two would hold one another, and a bundle that has been replaced would stay in
    memory until Python looks for such circles.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        self._bundle, self._options = bundle, options
        self.held: HeldFiles | None = None

    def open(self, graph: tuple[str, bool]) -> GraphSession:
        """A session of a graph file, see :meth:`GraphModel.session`; one thread alone, or as many as there are."""
        name, alone = graph
        spin = name in SPINNING if self._options.spin is None else self._options.spin
        options = replace(self._options, spin=spin, threads=1 if alone else self._options.threads)
        session = GraphSession(self._bundle.file(name), options, self.held)
        if name in TEXT_DECODERS and sig.WRITTEN not in session.inputs:
            raise BundleError(f"{name} is of an earlier podx, which laid out the cache otherwise: export it again")
        return session

    def for_cuda_graphs(self) -> CudaGraphRecommender | None:
        """The graph for CUDA graphs, where the bundle has one and it is wanted; nothing is opened yet."""
        wanted = self._options.device == CUDA and self._options.cuda_graph
        if not wanted or sig.CUDA_GRAPH_FILE not in self._bundle.manifest.files:
            return None
        return CudaGraphRecommender(self._bundle.file(sig.CUDA_GRAPH_FILE), self._options, self.held)


class GraphModel:
    """Sessions of a bundle's graphs, each loaded when it is first needed.

    Raises:
        BundleError: an int8 bundle's weights are not multiplied exactly by this processor.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        self._bundle = bundle
        self._options = options
        self._graphs = _Graphs(bundle, options)
        self._sessions = OpenedOnce(self._graphs.open)
        self._cuda_graph = self._graphs.for_cuda_graphs()
        self._user_rows = bundle.manifest.user_prompts > 0
        if bundle.manifest.largest_int8 and options.device == CPU:
            require_exact_products(bundle.path, bundle.manifest.largest_int8)

    @property
    def device(self) -> str:
        """Where the graphs run."""
        return self._options.device

    def open(self, names: Collection[str]) -> None:
        """Load graph files now, and depend on the bundle's folder no longer.

        Graphs that are needed later are read from what their files held when the bundle was loaded.

        Raises:
            BundleError: as :meth:`session`, or the folder has changed since the bundle was loaded.
        """
        for name in names:
            self.session(name)
        self._bundle.require_unchanged()
        self._graphs.held = self._bundle.held
        self._cuda_graph = self._graphs.for_cuda_graphs()

    def session(self, name: str, alone: bool = False) -> GraphSession:
        """The session of a graph file. ``alone``: one that runs in the caller's thread only.

        Raises:
            BundleError: the bundle has no such graph, or ONNX Runtime cannot load it.
            DeviceError: ONNX Runtime fell back to another device.
        """
        return self._sessions[name, alone]

    def encode(self, batch: Batch, task_id: int) -> dict[str, Any]:
        """Memory of a batch: mask and cross-attention K and V of every decoder layer, on the device."""
        return self.session(sig.ENCODER_FILE).run(_text_feeds(batch, task_id, self._user_rows), to_host=())

    def recommend(self, batch: ItemBatch, options: ItemSearchOptions) -> ItemResults:
        """The whole search by one graph, see :func:`recommend_with`. On CUDA as a CUDA graph where there is one."""

        def usual(batch: ItemBatch) -> ItemResults:
            return recommend_with(self.session(sig.RECOMMEND_FILE), batch, options, self._user_rows)

        cuda_graph, search = self._cuda_graph, (options.beams, options.length_penalty, batch.k)
        if cuda_graph is None or search != (DEFAULT_BEAMS, DEFAULT_LENGTH_PENALTY, CUDA_GRAPH_K):
            return usual(batch)

        def captured(batch: ItemBatch) -> ItemResults:
            outputs = cuda_graph.run(batch_feeds(batch, self._user_rows))
            return usual(batch) if outputs is None else _results(outputs)

        return answered_apart(batch, [captured if fits else usual for fits in fits_buckets(batch)])

    def recommend_exactly(self, batch: ItemBatch, options: ItemSearchOptions) -> ItemResults:
        """The search of ``recommend_exact.onnx``, as wide as it takes; length penalty as in ``options``."""
        session = self.session(sig.EXACT_FILE)
        feeds = {
            **batch_feeds(batch, self._user_rows),
            **search_feeds(replace(options, beams=AUTO_BEAMS), batch.k),
            sig.MOST_BEAMS: np.array([MOST_AUTO_BEAMS], dtype=np.int64),
        }
        return _results(session.run(feeds, to_host=session.outputs))

    def stepper(self, memory: Mapping[str, Any], batch: int, output_tokens: IntArray | None) -> GraphStepper:
        """A stepper over this memory. ``output_tokens``: score only these; None: the whole vocabulary."""
        name = sig.DECODER_FILE if output_tokens is None else sig.ITEM_DECODER_FILE
        return GraphStepper(self.session(name), self._bundle.manifest.shape, memory, batch, output_tokens)

    def text_graph(self, explanations_only: bool) -> str:
        """The graph file that steps through texts: of the tokens of explanations alone, or of all tokens.

        Bundles whose checkpoint does not know the former have only the latter, and older ones the one that gives the
        scores of all tokens.
        """
        able = [sig.TEXT_DECODER_FILE, sig.DECODER_FILE]
        if explanations_only:
            able.insert(0, sig.EXPLANATION_DECODER_FILE)
        return next(name for name in able if name in self._bundle.manifest.files)

    def parts(self, memory: Mapping[str, Any], users: int) -> list[tuple[Mapping[str, Any], int]]:
        """A batch of texts as one or several, each with its memory and its users, that one thread each answers alone.

        Threads that divide every operator among them wait for one another, some hundred times a step.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = self._options.threads or cores
        if threads == 1 or self.device != CPU or users < LEAST_USERS * threads:
            return [(memory, users)]
        parts = np.array_split(np.arange(users), threads)
        return [({name: select_rows(value, part, CPU) for name, value in memory.items()}, len(part)) for part in parts]

    def text_stepper(
        self, memory: Mapping[str, Any], batch: int, explanations_only: bool, alone: bool = False
    ) -> TextStepper:
        """A stepper over this memory that gives the best tokens, see :meth:`text_graph`."""
        name = self.text_graph(explanations_only)
        if name == sig.DECODER_FILE:
            return WholeRows(self.stepper(memory, batch, None), batch)
        return GraphTextStepper(self.session(name, alone), self._bundle.manifest.shape, memory, batch)
