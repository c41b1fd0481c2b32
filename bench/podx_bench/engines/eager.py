"""The eager baselines: the checkpoint in PyTorch, searched by transformers.

Both are held to the same items as podx, so that all engines do the same search and their lists can be compared; *as
published* differs from *encode-once* only in the work that the published code repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from podx_train.checkpoint import Checkpoint, load_checkpoint
from podx_train.generation import EXPLANATION_SEARCH, EagerRecommender, Mode, SearchOptions

from podx.bundle import Bundle
from podx.catalog import IdTable
from podx.encoding import Batch, InputEncoder
from podx.errors import CheckpointError, ConfigError, DeviceError
from podx.tasks import Task
from podx_bench.engines.base import EngineContext
from podx_bench.work import Answer, WorkItem

CUDA = "cuda"


@dataclass(frozen=True)
class _Loaded:
    """What answering needs."""

    recommender: EagerRecommender
    encoder: InputEncoder
    users: IdTable
    items: IdTable


class EagerEngine:
    """Runs a checkpoint.

    Args:
        mode: how often the encoder runs, see :mod:`podx_train.generation`.
        constrained: search inside the catalogue, or over the whole vocabulary.
    """

    def __init__(self, context: EngineContext, mode: str, constrained: bool) -> None:
        self._context = context
        self._mode = cast(Mode, mode)
        self._constrained = constrained
        self._loaded: _Loaded | None = None
        # without scores transformers keeps no copy of every step's logits: the faster way, and lists need no more
        self._items = SearchOptions(num_beams=context.beams, num_return=context.k, with_scores=False)
        self._texts = replace(EXPLANATION_SEARCH, with_scores=False)

    def load(self) -> None:
        """See :class:`podx_bench.engines.base.Engine`.

        Raises:
            DeviceError: torch has no CUDA.
            CheckpointError: the bundle was made from another checkpoint.
        """
        context = self._context
        if context.device == CUDA and not torch.cuda.is_available():
            raise DeviceError(
                "CUDA was asked for, but torch finds no usable GPU: install a CUDA build of torch on a machine with an "
                "NVIDIA GPU, or use --device cpu"
            )
        if context.checkpoint is None:
            raise ConfigError("eager engines need --checkpoint: give the folder the bundle was exported from")
        torch.set_num_threads(context.threads)
        checkpoint = load_checkpoint(context.checkpoint)
        self._require_same(checkpoint)
        catalog = checkpoint.catalog()
        model = checkpoint.model.to(torch.device(context.device))
        self._loaded = _Loaded(
            EagerRecommender(model, checkpoint.tokenizer, catalog, self._mode),
            checkpoint.encoder(),
            IdTable.of(checkpoint.user_ids, "user"),
            catalog.items,
        )

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.engines.base.Engine`."""
        assert self._loaded is not None, "load() comes first"
        own, task = self._loaded, self._context.task
        numbers = [_numbers(own.items, request.items) for request in requests]
        users = [_numbers(own.users, (request.user,))[0] for request in requests]
        batch = own.encoder.collate(
            [own.encoder.encode(task, int(u), n) for u, n in zip(users, numbers, strict=True)]
        )
        if task is Task.EXPLANATION:
            answers = [Answer(text=text) for text in own.recommender.explain(batch, self._texts).texts]
        else:
            found = self._search(own, batch, requests, numbers)
            answers = [_as_answer(own.items, row, keep_invalid=not self._constrained) for row in found]
        if self._context.device == CUDA:
            torch.cuda.synchronize()
        return answers

    def _search(
        self, own: _Loaded, batch: Batch, requests: Sequence[WorkItem], numbers: Sequence[npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """Item numbers, int64 [requests, k]."""
        task = self._context.task
        if not self._constrained:
            options = replace(self._items, early_stopping=False)
            return own.recommender.recommend_unconstrained(batch, task, options).items
        if task is Task.TOPN:
            return own.recommender.recommend(batch, task, self._items, allowed=numbers).items
        older = [_numbers(own.items, request.exclude) for request in requests]
        seen = [np.concatenate(pair) for pair in zip(older, numbers, strict=True)]
        return own.recommender.recommend(batch, task, self._items, excluded=seen).items

    def _require_same(self, checkpoint: Checkpoint) -> None:
        """Check that bundle and checkpoint are of one model, as far as ids, tasks and parameters tell."""
        bundle = Bundle.load(self._context.bundle, verify=False)
        known = [bytes(raw).decode() for raw in bundle.catalog.items.raw_ids]
        parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
        exported = bundle.manifest.provenance.get("parameters", parameters)
        if known != checkpoint.item_ids or bundle.manifest.tasks != checkpoint.config.tasks or exported != parameters:
            raise CheckpointError(
                "the bundle was not exported from this checkpoint (items, tasks or number of weights differ): "
                "give the checkpoint it was exported from, or export again"
            )


def _numbers(table: IdTable, raw_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Numbers of raw ids; the work was made from the same table, so each is known."""
    return np.array([table.number(raw) or 0 for raw in raw_ids], dtype=np.int64)


def _as_answer(items: IdTable, row: npt.NDArray[np.int64], keep_invalid: bool) -> Answer:
    """Raw ids of a row; 0 is an invalid answer of an unconstrained search, and the list's end in a constrained one."""
    if keep_invalid:
        return Answer(tuple(items.raw(number) if number else None for number in row.tolist()))
    return Answer(tuple(items.raw(number) for number in row.tolist() if number))
