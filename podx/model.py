"""The exported model behind the search: encodes a batch once, then steps the decoder graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from podx import signature as sig
from podx.bundle import Bundle
from podx.decoding.stepper import FloatArray, IntArray
from podx.encoding import Batch
from podx.session import GraphSession, SessionOptions, select_rows


class GraphStepper:
    """The decoder graph as a search's stepper. The cache stays on the device.

    Args:
        decoder: the graph.
        memory: what the encoder graph gave for this batch (:func:`podx.signature.memory_tensors`).
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


class GraphModel:
    """Sessions of a bundle's graphs, each loaded when it is first needed."""

    def __init__(self, bundle: Bundle, options: SessionOptions) -> None:
        self._bundle = bundle
        self._options = options
        self._sessions: dict[str, GraphSession] = {}
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """Where the graphs run."""
        return self._options.device

    def session(self, name: str) -> GraphSession:
        """The session of a graph file.

        Raises:
            BundleError: the bundle has no such graph, or ONNX Runtime cannot load it.
            DeviceError: ONNX Runtime fell back to another device.
        """
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = GraphSession(self._bundle.file(name), self._options)
            return self._sessions[name]

    def encode(self, batch: Batch, task_id: int) -> dict[str, Any]:
        """Memory of a batch: mask and cross-attention K and V of every decoder layer, on the device."""
        feeds = {
            sig.INPUT_IDS: batch.input_ids,
            sig.WHOLE_WORD_IDS: batch.whole_word_ids,
            sig.ATTENTION_MASK: batch.attention_mask,
            sig.TASK_ID: np.full(batch.size, task_id, dtype=np.int64),
        }
        return self.session(sig.ENCODER_FILE).run(feeds, to_host=())

    def stepper(self, memory: Mapping[str, Any], batch: int, output_tokens: IntArray | None) -> GraphStepper:
        """A stepper over this memory. ``output_tokens``: score only these; None: the whole vocabulary."""
        name = sig.DECODER_FILE if output_tokens is None else sig.ITEM_DECODER_FILE
        return GraphStepper(self.session(name), self._bundle.manifest.shape, memory, batch, output_tokens)
