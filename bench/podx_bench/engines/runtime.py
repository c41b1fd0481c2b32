"""podx itself as an engine: the public functions that a service would call, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import podx
from podx.decoding.options import EXPLANATIONS, ItemSearchOptions, ScoreOver, TextScoreOver, TextSearchOptions
from podx.graphs.catalog_search import SearchGraph
from podx.graphs.session import Device
from podx.recommender import UNCONSTRAINED_ITEMS
from podx.requests.types import Recommendations
from podx.text.templates import Task
from podx_bench.workload.work import Answer, EngineContext, WorkItem


class RuntimeEngine:
    """Runs a bundle.

    Args:
        search: what scores are over, None: what the model was trained for; or ``text``: unconstrained search.
        graph: see ``search_graph`` of :func:`podx.load`.
        captured: on CUDA, replay the search as a CUDA graph.
        arm_bf16: see :func:`podx.load`.

    Raises:
        BundleError: the bundle is damaged. DeviceError: ONNX Runtime does not have the device.
    """

    def __init__(
        self,
        context: EngineContext,
        search: ScoreOver | Literal["text"] | None = None,
        graph: SearchGraph = "auto",
        captured: bool = True,
        arm_bf16: bool = False,
    ) -> None:
        self._context, self._search = context, search
        self._recommender = podx.load(
            context.bundle,
            cast(Device, context.device),
            threads=context.threads,
            spin=context.spin,
            search_graph=graph,
            cuda_graph=captured,
            tasks=[context.task],
            arm_bf16=arm_bf16,
        )

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`."""
        context, recommender = self._context, self._recommender
        k, size = context.k, context.batch_size or len(requests)
        if context.task is Task.EXPLANATION:
            asked = [podx.ExplainRequest(request.user, request.items[0]) for request in requests]
            over: TextScoreOver = "vocabulary" if self._search == "vocabulary" else EXPLANATIONS
            texts = recommender.explain_batch(asked, TextSearchOptions(score_over=over), batch_size=size)
            return [Answer(text=found.text) for found in texts]
        wanted = list_requests(context.task, requests)
        if self._search == "text":
            options = replace(UNCONSTRAINED_ITEMS, beams=context.beams)
            found = recommender.generate_items_batch(wanted, k, options, batch_size=size)
            return [Answer(tuple(answer.item for answer in answers)) for answers in found]
        search = ItemSearchOptions(beams=context.beams, score_over=self._search)
        lists = batch_method(recommender, context.task)(wanted, k, search=search, batch_size=size)
        return [Answer(tuple(answer.item for answer in answers)) for answers in lists]


def list_requests(task: Task, requests: Sequence[WorkItem]) -> list[Any]:
    """Requests for lists of items as the runtime takes them."""
    if task is Task.TOPN:
        return [podx.RankRequest(request.user, request.items, history=request.history) for request in requests]
    return [podx.RecommendRequest(request.user, request.items, exclude=request.exclude) for request in requests]


def batch_method(recommender: podx.Recommender, task: Task) -> Callable[..., list[Recommendations]]:
    """What answers a batch of :func:`list_requests`."""
    return recommender.rank_batch if task is Task.TOPN else recommender.recommend_batch
