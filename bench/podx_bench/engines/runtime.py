"""podx itself as an engine: the public functions that a service would call, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import podx
from podx.decoding.options import ItemSearchOptions, ScoreOver
from podx.recommender import UNCONSTRAINED_ITEMS
from podx.session import Device
from podx.tasks import Task
from podx_bench.engines.base import EngineContext
from podx_bench.work import Answer, WorkItem

TEXT = "text"


class RuntimeEngine:
    """Runs a bundle.

    Args:
        search: what scores are over, ``catalogue`` or ``vocabulary``; or ``text``: unconstrained search.

    Raises:
        BundleError: the bundle is damaged. DeviceError: ONNX Runtime does not have the device.
    """

    def __init__(self, context: EngineContext, search: str) -> None:
        self._context = context
        self._search = search
        device = cast(Device, context.device)
        self._recommender = podx.load(context.bundle, device, threads=context.threads, spin=context.spin)

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.engines.base.Engine`."""
        if self._context.task is Task.EXPLANATION:
            asked = [podx.ExplainRequest(request.user, request.items[0]) for request in requests]
            texts = self._recommender.explain_batch(asked, batch_size=len(asked))
            return [Answer(scores=(text.score,), text=text.text) for text in texts]
        if self._search == TEXT:
            return self._generate(requests)
        return self._recommend(requests)

    def _recommend(self, requests: Sequence[WorkItem]) -> list[Answer]:
        search = ItemSearchOptions(beams=self._context.beams, score_over=cast(ScoreOver, self._search))
        k, size = self._context.k, len(requests)
        if self._context.task is Task.TOPN:
            lists = self._recommender.rank_batch(_rank(requests), k, search, batch_size=size)
        else:
            lists = self._recommender.recommend_batch(_recommend(requests), k, search=search, batch_size=size)
        return [Answer(tuple(one.item for one in found), tuple(one.score for one in found)) for found in lists]

    def _generate(self, requests: Sequence[WorkItem]) -> list[Answer]:
        search = replace(UNCONSTRAINED_ITEMS, beams=self._context.beams)
        asked = _rank(requests) if self._context.task is Task.TOPN else _recommend(requests)
        lists = self._recommender.generate_items_batch(asked, self._context.k, search, batch_size=len(requests))
        return [Answer(tuple(one.item for one in found), tuple(one.score for one in found)) for found in lists]


def _recommend(requests: Sequence[WorkItem]) -> list[podx.RecommendRequest]:
    return [podx.RecommendRequest(request.user, request.items, exclude=request.exclude) for request in requests]


def _rank(requests: Sequence[WorkItem]) -> list[podx.RankRequest]:
    return [podx.RankRequest(request.user, request.items) for request in requests]
