"""A bundle, loaded: what a recommender answers from until another takes its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from podx.bundle.bundle import Bundle
from podx.bundle.signature import ENCODER_FILE
from podx.decoding.generated_items import ItemReader
from podx.decoding.items import ItemResults
from podx.decoding.options import EXPLANATIONS, USUAL_SEARCH, ItemSearchOptions, TextSearchOptions
from podx.decoding.text import Hypothesis, TextSearch
from podx.errors import BundleError
from podx.graphs.catalog_search import CatalogSearch, SearchGraph
from podx.graphs.model import GraphModel
from podx.graphs.session import SessionOptions
from podx.requests.encoder import EncodedRequest, RequestEncoder, common_task
from podx.requests.lookup import LongHistory, UnknownUser
from podx.requests.types import RankRequest, Recommendation, Recommendations, RecommendRequest, UserKind
from podx.text.batches import DEFAULT_BATCH_SIZE, in_batches
from podx.text.inputs import EncodedInput
from podx.text.templates import Task, parse_tasks

TRIAL_USERS, TRIAL_K = 3, 10


class Snapshot:
    """A bundle and everything made of it. Nothing in it changes, whatever becomes of the folder.

    Any number of threads may ask it.

    Args:
        bundle: the checked folder.
        options, long_history, search_graph, unknown_user, tasks: see :func:`podx.load`.

    Attributes:
        tasks: those whose graphs were opened at once.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        long_history: LongHistory = "error",
        search_graph: SearchGraph = "auto",
        unknown_user: UnknownUser = "error",
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.bundle = bundle
        self.requests = RequestEncoder(bundle, long_history, unknown_user)
        self.model = GraphModel(bundle, options)
        self.reader = ItemReader(bundle.catalog, bundle.tokenizer)
        self._search = CatalogSearch(bundle, self.model, search_graph)
        self.tasks = bundle.manifest.answered if tasks is None else parse_tasks(",".join(tasks))
        graphs: set[str] = set()
        for task in self.tasks:
            self.requests.lookup.task_id(task)
            texts = ENCODER_FILE, self.model.text_graph(explanations_only=True)
            graphs.update(texts if task is Task.EXPLANATION else self._search.graphs)
        self.model.open(graphs)

    def encode(
        self, requests: Sequence[RecommendRequest | RankRequest], exclude_seen: bool = True
    ) -> list[EncodedRequest]:
        """Look requests up and write them as tokens."""
        return [self.requests.encode(request, exclude_seen) for request in requests]

    def recommend(
        self, requests: Sequence[EncodedRequest], k: int, search: ItemSearchOptions | None, batch_size: int
    ) -> list[Recommendations]:
        """Answers to requests of one task, in their order. Those that another bundle encoded are encoded anew.

        Raises:
            ConfigError: the requests are not all of one kind, or an option is out of range.
            RequestError: a request encoded before cannot be answered from this bundle.
        """
        common_task(request.task for request in requests)
        find = self._search.chosen(search or USUAL_SEARCH)  # an option is refused even where there is no request
        renewed = [self.requests.renewed(request) for request in requests]

        def run(rows: Sequence[int]) -> list[Recommendations]:
            chosen = [renewed[row] for row in rows]
            return self._recommendations(find(self.requests.batch(chosen, k)), [request.user for request in chosen])

        return in_batches([request.text for request in renewed], batch_size, run)

    def search_items(self, requests: Sequence[EncodedRequest], k: int) -> ItemResults:
        """Answers by number to one batch of requests, of one task and encoded by this bundle; at most all its items."""
        return self._search.chosen(USUAL_SEARCH)(self.requests.batch(requests, k))

    def _recommendations(self, results: ItemResults, users: Sequence[UserKind]) -> list[Recommendations]:
        raw = self.bundle.catalog.items.raw
        exact = [None] * len(results.items) if results.exact is None else results.exact.tolist()
        return [
            Recommendations(
                (Recommendation(raw(item), score) for item, score in zip(items, scores, strict=True) if item),
                certain,
                user,
                self.bundle.version,
            )
            for items, scores, certain, user in zip(
                results.items.tolist(), results.scores.tolist(), exact, users, strict=True
            )
        ]

    def search_text(
        self, task: Task, records: Sequence[EncodedInput], options: TextSearchOptions, batch_size: int
    ) -> list[list[Hypothesis]]:
        """What the model writes when it may write anything, best first, for each record."""
        start, eos = self.bundle.manifest.start_token, self.bundle.tokenizer.eos_id
        only = task is Task.EXPLANATION and options.score_over == EXPLANATIONS

        def run(rows: Sequence[int]) -> list[list[Hypothesis]]:
            batch = self.requests.inputs.collate([records[row] for row in rows])
            parts = self.model.parts(self.model.encode(batch, self.requests.lookup.task_id(task)), batch.size)

            def answer(memory: Mapping[str, Any], users: int) -> list[list[Hypothesis]]:
                stepper = self.model.text_stepper(memory, users, only, alone=len(parts) > 1)
                return TextSearch(stepper, users, options, start, eos).run()

            if len(parts) == 1:
                return answer(*parts[0])
            with ThreadPoolExecutor(len(parts)) as threads:
                return [texts for part in threads.map(answer, *zip(*parts, strict=True)) for texts in part]

        return in_batches(records, batch_size, run)

    def try_out(self, requests: Sequence[RecommendRequest] = ()) -> None:
        """Answer a few requests, seen items included.

        Args:
            requests: none: the first :data:`TRIAL_USERS` users of whom a history is known, where the graphs for it are
                open.

        Raises:
            BundleError: no item comes back, or one whose score is no number.
            RequestError: one of the given requests cannot be answered from this bundle.
        """
        if not requests and Task.SEQUENTIAL in self.tasks:
            users = self.bundle.users
            known = np.flatnonzero(np.diff(users.offsets))[:TRIAL_USERS] + 1
            requests = [RecommendRequest(users.ids.raw(number)) for number in known.tolist()]
        encoded = self.encode(requests, exclude_seen=False)
        answers = self.recommend(encoded, TRIAL_K, None, DEFAULT_BATCH_SIZE)
        for request, items in zip(requests, answers, strict=True):
            if not items or not all(math.isfinite(item.score) for item in items):
                found = "an item without a score" if items else "no item"
                raise BundleError(f"{found} comes back for user {request.user!r}: export the model again")
