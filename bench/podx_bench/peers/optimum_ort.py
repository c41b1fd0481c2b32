"""Optimum: the POD model as ``podx export --layout transformers`` writes it, searched by transformers ``generate``.

The search is that of the engine *encode-once*, held to the catalog by the same function, so the lists are too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import GenerationConfig

from podx.bundle.bundle import Bundle
from podx.bundle.trie import NO_ITEM
from podx.decoding.options import TextSearchOptions
from podx.text.templates import Task
from podx_bench.workload.work import Answer, EngineContext, RequestReader, WorkItem
from podx_train.eager.prefixes import PrefixConstraint, TrieWalker

PROVIDER = "CPUExecutionProvider"


def session_options(threads: int, spin: bool) -> onnxruntime.SessionOptions:
    """As podx's own sessions are opened."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    return options


class OptimumEngine:
    """Runs the folder that :func:`podx_bench.peers.prepare.prepare_optimum` has written.

    Args:
        context: ``checkpoint`` is that folder.
    """

    def __init__(self, context: EngineContext) -> None:
        from optimum.onnxruntime import ORTModelForSeq2SeqLM

        torch.set_num_threads(context.threads)
        bundle = Bundle.load(context.bundle, verify=False)
        self._context, self._catalog, self._tokenizer = context, bundle.catalog, bundle.tokenizer
        self._reader, self._walker = RequestReader(bundle, context.task), TrieWalker(bundle.catalog.trie)
        manifest = bundle.manifest
        first = bundle.tokenizer.vocab_size + manifest.task_id(context.task) * manifest.prompts
        self._front = np.arange(first, first + manifest.prompts)  # ids that the folder's tokenizer puts in front
        self._model: Any = ORTModelForSeq2SeqLM.from_pretrained(
            context.checkpoint,
            use_merged=False,
            provider=PROVIDER,
            session_options=session_options(context.threads, context.spin),
        )
        settings = self._model.generation_config.to_dict()
        settings |= {"num_beams": context.beams, "num_return_sequences": context.k}
        self._texts, texts = context.task is Task.EXPLANATION, TextSearchOptions()
        if self._texts:  # as the eager engines, over the whole vocabulary
            settings |= {"num_beams": texts.beams_per_group, "num_return_sequences": 1, "early_stopping": False}
            settings |= {"max_length": texts.max_length, "min_length": texts.min_length}
        self._settings = GenerationConfig.from_dict(settings)

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`. Many requests are run in their own order, as a user would."""
        size = self._context.batch_size or len(requests)
        parts = (requests[first : first + size] for first in range(0, len(requests), size))
        return [answer for part in parts for answer in self._run_batch(part)]

    def _run_batch(self, requests: Sequence[WorkItem]) -> list[Answer]:
        batch = self._reader.batch(requests)
        front = np.tile(self._front, (batch.size, 1))
        ids = np.concatenate([front, batch.input_ids], axis=1)
        mask = np.concatenate([np.ones_like(front), batch.attention_mask], axis=1)
        ranked = self._context.task is Task.TOPN
        allowed = [self._reader.items(request.items) for request in requests] if ranked else None
        seen = None if ranked or self._texts else [self._reader.items((*one.exclude, *one.items)) for one in requests]
        constraint = PrefixConstraint(self._walker, self._tokenizer.eos_id, seen, allowed)
        with torch.inference_mode():
            sequences = self._model.generate(
                input_ids=torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                generation_config=self._settings,
                prefix_allowed_tokens_fn=None if self._texts else constraint,
            )
        if self._texts:
            return [Answer(text=self._tokenizer.decode(tokens)) for tokens in sequences[:, 1:].tolist()]
        written = sequences[:, 1:].reshape(batch.size, self._context.k, -1).tolist()
        return [self._answer(lists, row, constraint) for row, lists in enumerate(written)]

    def _answer(self, written: list[list[int]], row: int, constraint: PrefixConstraint) -> Answer:
        """Raw ids; what a beam without a way to go has written is no item, or none that may come out."""
        eos = self._tokenizer.eos_id
        found = [self._walker.item(tuple(one[: one.index(eos)] if eos in one else one)) for one in written]
        legal = (item for item in dict.fromkeys(found) if item != NO_ITEM and constraint.is_legal(row, item))
        return Answer(tuple(self._catalog.items.raw(item) for item in legal))
