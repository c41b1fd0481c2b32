"""The eager baselines: the checkpoint in PyTorch, searched by transformers; as it is, or compiled by ``torch.compile``.

All are held to the same items as podx, so that all engines do the same search and their lists can be compared; *as
published* differs from *encode-once* only in the work that the published code repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError, DeviceError
from podx.text.inputs import Batch
from podx.text.templates import Task
from podx_bench.workload.inputs import require_same
from podx_bench.workload.work import Answer, EngineContext, RequestReader, WorkItem
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.eager.generation import EXPLANATION_SEARCH, EagerRecommender, Mode, SearchOptions

CUDA = "cuda"
COMPILE_OPTIONS: dict[str, Any] = {"options": {"freezing": True}}
"""Weights frozen in: the faster of the two ways on a CPU, for matrices are then packed once."""
WARM_UP = ((2, 2), (3, 3), (1, 2), (1, 3), (5, 1))
"""Requests and items of each call before the first request: the compiler treats one request apart from several, and
takes a size for fixed until it has met a second."""


class EagerEngine:
    """Runs a checkpoint.

    Args:
        mode: how often the encoder runs, see :mod:`podx_train.eager.generation`.
        constrained: search inside the catalog, or over the whole vocabulary.
        compiled: have encoder and decoder step compiled when they are first called.
        dtype: name of the type of weights and activations; None: as the checkpoint has them.
        attention: transformers' name of the implementation of attention.

    Raises:
        ConfigError: there is no checkpoint. DeviceError: torch has no CUDA.
        CheckpointError: the checkpoint is damaged, or the bundle was made from another one.
    """

    def __init__(
        self,
        context: EngineContext,
        mode: Mode,
        constrained: bool,
        compiled: bool = False,
        dtype: Literal["bfloat16"] | None = None,
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> None:
        if context.device == CUDA and not torch.cuda.is_available():
            raise DeviceError(
                "CUDA was asked for, but torch finds no usable GPU: install a CUDA build of torch on a machine with an "
                "NVIDIA GPU, or use --device cpu"
            )
        if context.checkpoint is None:
            raise ConfigError("eager engines need --checkpoint: give the folder the bundle was exported from")
        self._context, self._constrained = context, constrained
        # without scores transformers keeps no copy of every step's logits: the faster way, and lists need no more
        self._item_search = SearchOptions(num_beams=context.beams, num_return=context.k, with_scores=False)
        self._text_search = replace(EXPLANATION_SEARCH, with_scores=False)
        torch.set_num_threads(context.threads)
        checkpoint = load_checkpoint(context.checkpoint)
        require_same(context.bundle, checkpoint)
        catalog = checkpoint.catalog()
        model = checkpoint.model.to(torch.device(context.device), None if dtype is None else getattr(torch, dtype))
        model.backbone.set_attn_implementation(attention)
        self._recommender = EagerRecommender(model, checkpoint.tokenizer, catalog, mode)
        bundle = Bundle.load(context.bundle, verify=False)
        self._reader, self._raw_id = RequestReader(bundle, context.task), catalog.items.raw  # export may choose words
        if compiled:
            modules: tuple[Any, ...] = (model.backbone.encoder, model.backbone)
            for module in modules:
                module.forward = torch.compile(module.forward, dynamic=True, **COMPILE_OPTIONS)
            for requests, length in WARM_UP:
                self.run([WorkItem(checkpoint.user_ids[0], tuple(checkpoint.item_ids[:length]))] * requests)

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`. Many requests are run in their own order, as a user would."""
        size = self._context.batch_size or len(requests)
        parts = (requests[first : first + size] for first in range(0, len(requests), size))
        return [answer for part in parts for answer in self._run_batch(part)]

    def _run_batch(self, requests: Sequence[WorkItem]) -> list[Answer]:
        task = self._context.task
        batch = self._reader.batch(requests)
        if task is Task.EXPLANATION:
            answers = [Answer(text=text) for text in self._recommender.explain(batch, self._text_search).texts]
        else:
            answers = [self._as_answer(row) for row in self._search(batch, requests)]
        if self._context.device == CUDA:
            torch.cuda.synchronize()
        return answers

    def _search(self, batch: Batch, requests: Sequence[WorkItem]) -> npt.NDArray[np.int64]:
        """Item numbers, int64 [requests, k]."""
        task = self._context.task
        if not self._constrained:
            options = replace(self._item_search, early_stopping=False)  # as published
            return self._recommender.recommend_unconstrained(batch, task, options).items
        if task is Task.TOPN:
            allowed = [self._reader.items(request.items) for request in requests]
            return self._recommender.recommend(batch, task, self._item_search, allowed=allowed).items
        seen = [self._reader.items((*request.exclude, *request.items)) for request in requests]
        return self._recommender.recommend(batch, task, self._item_search, excluded=seen).items

    def _as_answer(self, row: npt.NDArray[np.int64]) -> Answer:
        """Raw ids of a row; 0 is an answer that is no item, or, where there are no such answers, the list's end."""
        found = [self._raw_id(number) if number else None for number in row.tolist()]
        return Answer(tuple(raw for raw in found if raw is not None) if self._constrained else tuple(found))
