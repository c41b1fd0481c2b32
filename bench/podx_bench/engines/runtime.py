"""podx itself as an engine: the public functions that a service would call, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import podx
from podx.decoding.options import ItemSearchOptions, ScoreOver
from podx.graphs.session import Device
from podx.recommender import UNCONSTRAINED_ITEMS
from podx.text.templates import Task
from podx_bench.engines import ANY_GRAPH
from podx_bench.workload.engine import EngineContext
from podx_bench.workload.work import Answer, WorkItem

TEXT = "text"


class RuntimeEngine:
    """Runs a bundle.

    Args:
        search: what scores are over, ``catalog`` or ``vocabulary``; or ``text``: unconstrained search.
        graph: see ``search_graph`` of :func:`podx.load`.

    Raises:
        BundleError: the bundle is damaged. DeviceError: ONNX Runtime does not have the device.
    """

    def __init__(self, context: EngineContext, search: str, graph: str = ANY_GRAPH) -> None:
        self._context = context
        self._search = search
        device = cast(Device, context.device)
        chosen: dict[str, Any] = {} if graph == ANY_GRAPH else {"search_graph": graph}
        self._recommender = podx.load(context.bundle, device, threads=context.threads, spin=context.spin, **chosen)

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.engine.Engine`."""
        if self._context.task is Task.EXPLANATION:
            asked = [podx.ExplainRequest(request.user, request.items[0]) for request in requests]
            texts = self._recommender.explain_batch(asked, batch_size=self._batch_size(requests))
            return [Answer(scores=(text.score,), text=text.text) for text in texts]
        if self._search == TEXT:
            return self._generate(requests)
        return self._recommend(requests)

    def _recommend(self, requests: Sequence[WorkItem]) -> list[Answer]:
        search = ItemSearchOptions(beams=self._context.beams, score_over=cast(ScoreOver, self._search))
        k, size = self._context.k, self._batch_size(requests)
        if self._context.task is Task.TOPN:
            lists = self._recommender.rank_batch(rank_requests(requests), k, search, batch_size=size)
        else:
            lists = self._recommender.recommend_batch(recommend_requests(requests), k, search=search, batch_size=size)
        return [Answer(tuple(one.item for one in found), tuple(one.score for one in found)) for found in lists]

    def _generate(self, requests: Sequence[WorkItem]) -> list[Answer]:
        search = replace(UNCONSTRAINED_ITEMS, beams=self._context.beams)
        asked = rank_requests(requests) if self._context.task is Task.TOPN else recommend_requests(requests)
        size = self._batch_size(requests)
        lists = self._recommender.generate_items_batch(asked, self._context.k, search, batch_size=size)
        return [Answer(tuple(one.item for one in found), tuple(one.score for one in found)) for found in lists]

    def _batch_size(self, requests: Sequence[WorkItem]) -> int:
        return self._context.batch_size or len(requests)


def recommend_requests(requests: Sequence[WorkItem]) -> list[podx.RecommendRequest]:
    """As the runtime takes them: sequential recommendation."""
    return [podx.RecommendRequest(request.user, request.items, exclude=request.exclude) for request in requests]


def rank_requests(requests: Sequence[WorkItem]) -> list[podx.RankRequest]:
    """As the runtime takes them: top-N."""
    return [podx.RankRequest(request.user, request.items) for request in requests]
