"""podx itself as an engine: the public functions that a service would call, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import podx
from podx.decoding.options import ItemSearchOptions, ScoreOver
from podx.graphs.catalog_search import SearchGraph
from podx.graphs.session import Device
from podx.recommender import UNCONSTRAINED_ITEMS
from podx.text.templates import Task
from podx_bench.workload.work import Answer, EngineContext, WorkItem


class RuntimeEngine:
    """Runs a bundle.

    Args:
        search: what scores are over, ``catalog`` or ``vocabulary``; or ``text``: unconstrained search.
        graph: see ``search_graph`` of :func:`podx.load`.

    Raises:
        BundleError: the bundle is damaged. DeviceError: ONNX Runtime does not have the device.
    """

    def __init__(self, context: EngineContext, search: str, graph: SearchGraph = "auto") -> None:
        self._context, self._search = context, search
        self._recommender = podx.load(
            context.bundle,
            cast(Device, context.device),
            threads=context.threads,
            spin=context.spin,
            search_graph=graph,
        )

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`."""
        context, recommender = self._context, self._recommender
        k, size, top_n = context.k, context.batch_size or len(requests), context.task is Task.TOPN
        if context.task is Task.EXPLANATION:
            asked = [podx.ExplainRequest(request.user, request.items[0]) for request in requests]
            return [Answer(text=found.text) for found in recommender.explain_batch(asked, batch_size=size)]
        if self._search == "text":
            wanted = rank_requests(requests) if top_n else recommend_requests(requests)
            options = replace(UNCONSTRAINED_ITEMS, beams=context.beams)
            texts = recommender.generate_items_batch(wanted, k, options, batch_size=size)
            return [Answer(tuple(answer.item for answer in answers)) for answers in texts]
        search = ItemSearchOptions(beams=context.beams, score_over=cast(ScoreOver, self._search))
        if top_n:
            lists = recommender.rank_batch(rank_requests(requests), k, search, batch_size=size)
        else:
            lists = recommender.recommend_batch(recommend_requests(requests), k, search=search, batch_size=size)
        return [Answer(tuple(answer.item for answer in answers)) for answers in lists]


def recommend_requests(requests: Sequence[WorkItem]) -> list[podx.RecommendRequest]:
    """As the runtime takes them: sequential recommendation."""
    return [podx.RecommendRequest(request.user, request.items, exclude=request.exclude) for request in requests]


def rank_requests(requests: Sequence[WorkItem]) -> list[podx.RankRequest]:
    """As the runtime takes them: top-N."""
    return [podx.RankRequest(request.user, request.items) for request in requests]
