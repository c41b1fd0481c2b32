"""The facade of the runtime: raw ids in, raw ids out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from podx.bundle import Bundle
from podx.catalogue_search import CatalogueSearch, ItemBatch, SearchGraph
from podx.decoding.items import FoundItems
from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.decoding.text import Hypothesis, TextSearch
from podx.encoding import EncodedInput, InputEncoder
from podx.errors import ConfigError
from podx.lookup import LongHistory, Lookup, Numbers
from podx.model import GraphModel
from podx.requests import (
    ExplainRequest,
    Explanation,
    GeneratedItem,
    RankRequest,
    Recommendation,
    Recommendations,
    RecommendRequest,
)
from podx.session import Device, SessionOptions, resolve_device
from podx.tasks import Task

DEFAULT_K = 10
DEFAULT_BATCH_SIZE = 32
Answer = TypeVar("Answer")

# The paper's protocol lets the model write anything: 20 beams, at most 50 tokens, no minimum (POD paper, section 4.4).
UNCONSTRAINED_ITEMS = TextSearchOptions(beams=20, groups=1, min_length=0, max_length=50)


def load(
    path: str | Path,
    device: Device = "auto",
    threads: int = 0,
    spin: bool | None = None,
    long_history: LongHistory = "error",
    verify: bool = True,
    search_graph: SearchGraph = "auto",
) -> Recommender:
    """Open a bundle that ``podx export`` wrote.

    Args:
        path: the bundle folder.
        device: ``auto`` takes the GPU where ONNX Runtime has one.
        threads: threads inside an operator; 0 = one per core.
        spin: let waiting threads wait busily while a graph runs (see :class:`podx.session.SessionOptions`).
        long_history: what to do with a history of more items than the model reads.
        verify: compare every file with its checksum.
        search_graph: how items are searched for. ``one``: by ``recommend.onnx``, which does a whole search in one run;
            ``steps``: by the step graphs, the search itself in numpy; ``auto``: by the one graph where it can.

    Raises:
        BundleError: the folder is incomplete or damaged, or (BundleVersionError) of another format version.
        DeviceError: the device is not there. DependencyError: ONNX Runtime is not installed.
        ConfigError: an option is out of range.
    """
    if long_history not in ("error", "keep-last"):
        raise ConfigError(f"long_history must be 'error' or 'keep-last', not {long_history!r}")
    options = SessionOptions(resolve_device(device), threads, spin)
    return Recommender(Bundle.load(Path(path), verify), options, long_history, search_graph)


class Recommender:
    """Answers requests from a bundle. Thread-safe; the same request gives the same answer.

    Each method has a ``_batch`` twin that takes requests, sorts them by length and runs ``batch_size`` at a time.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        long_history: LongHistory = "error",
        search_graph: SearchGraph = "auto",
    ) -> None:
        self.bundle = bundle
        self._lookup = Lookup(bundle, long_history)
        self._model = GraphModel(bundle, options)
        self._search = CatalogueSearch(bundle, self._model, search_graph)
        self._catalog = bundle.catalog
        self._encoder = InputEncoder(bundle.tokenizer, self._catalog.text, bundle.manifest.whole_word_rows)
        self._eos = bundle.tokenizer.eos_id

    # --- what callers use -----------------------------------------------------------------------------------------

    def recommend(
        self,
        user: str,
        history: Sequence[str] | None = None,
        k: int = DEFAULT_K,
        exclude: Sequence[str] = (),
        allow: Sequence[str] | None = None,
        exclude_seen: bool = True,
        search: ItemSearchOptions | None = None,
    ) -> Recommendations:
        """The k items the user most likely turns to next, best first (sequential recommendation).

        Args:
            user, history, exclude, allow: see :class:`RecommendRequest`.
            k: how many items are wanted.
            exclude_seen: leave out the items of the history.
            search: width and scoring of the beam search.

        Returns:
            k distinct items of the catalogue; fewer only where fewer are permitted.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            HistoryError: no history is given or known, or it is longer than the model reads.
            UnsupportedTaskError: the model was not trained for this task. ConfigError: k is below 1.
        """
        return self.recommend_batch([RecommendRequest(user, history, exclude, allow)], k, exclude_seen, search)[0]

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        k: int = DEFAULT_K,
        exclude: Sequence[str] = (),
        search: ItemSearchOptions | None = None,
    ) -> Recommendations:
        """The k best of the candidates, best first (top-N recommendation). Nothing else can come back.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            CandidatesError: no candidates, one given twice, or more than the model reads.
            UnsupportedTaskError: the model was not trained for this task. ConfigError: k is below 1.
        """
        return self.rank_batch([RankRequest(user, candidates, exclude)], k, search)[0]

    def explain(self, user: str, item: str, search: TextSearchOptions | None = None) -> Explanation:
        """One sentence on why the item suits the user: the likeliest hypothesis of all groups.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            UnsupportedTaskError: the model was not trained for this task.
        """
        return self.explain_batch([ExplainRequest(user, item)], search)[0]

    def recommend_batch(
        self,
        requests: Sequence[RecommendRequest],
        k: int = DEFAULT_K,
        exclude_seen: bool = True,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """:meth:`recommend` for many requests; answers in the order of the requests."""
        records, denied, allowed = [], [], []
        for request in requests:
            seen = self._lookup.history(request)
            records.append(self._encode(Task.SEQUENTIAL, request.user, self._lookup.readable(seen)))
            excluded = self._lookup.items(request.exclude)
            denied.append(np.concatenate([excluded, seen]) if exclude_seen else excluded)
            allowed.append(None if request.allow is None else self._lookup.items(request.allow))
        return self._search_items(Task.SEQUENTIAL, records, denied, allowed, k, search, batch_size)

    def rank_batch(
        self,
        requests: Sequence[RankRequest],
        k: int = DEFAULT_K,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """:meth:`rank` for many requests; answers in the order of the requests."""
        records, denied, allowed = [], [], []
        for request in requests:
            candidates = self._lookup.candidates(request)
            records.append(self._encode(Task.TOPN, request.user, candidates))
            denied.append(self._lookup.items(request.exclude))
            allowed.append(candidates)
        return self._search_items(Task.TOPN, records, denied, allowed, k, search, batch_size)

    def explain_batch(
        self,
        requests: Sequence[ExplainRequest],
        search: TextSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Explanation]:
        """:meth:`explain` for many requests; answers in the order of the requests."""
        records = [self._encode(Task.EXPLANATION, r.user, self._lookup.items([r.item])) for r in requests]
        found = self._search_text(Task.EXPLANATION, records, search or TextSearchOptions(), batch_size)
        decode = self.bundle.tokenizer.decode
        return [Explanation(decode(hypotheses[0].tokens), hypotheses[0].score) for hypotheses in found]

    def generate_items_batch(
        self,
        requests: Sequence[RecommendRequest] | Sequence[RankRequest],
        k: int = DEFAULT_K,
        search: TextSearchOptions = UNCONSTRAINED_ITEMS,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[list[GeneratedItem]]:
        """The paper's protocol: search the whole vocabulary and read items from the text, whatever comes.

        Nothing is excluded and nothing is made up: an answer that names no item has ``item=None``. There are at most as
        many answers as the search has beams.

        Raises:
            ConfigError: the requests are not all of one kind.
        """
        _check_k(k)
        pending: list[RecommendRequest | RankRequest] = [*requests]
        tasks = [Task.TOPN if isinstance(request, RankRequest) else Task.SEQUENTIAL for request in pending]
        if len(set(tasks)) > 1:
            raise ConfigError("RecommendRequest and RankRequest are different tasks: pass each kind in its own call")
        records = []
        for task, request in zip(tasks, pending, strict=True):
            if isinstance(request, RankRequest):
                items = self._lookup.candidates(request)
            else:
                items = self._lookup.readable(self._lookup.history(request))
            records.append(self._encode(task, request.user, items))
        found = self._search_text(tasks[0] if tasks else Task.SEQUENTIAL, records, search, batch_size)
        return [[self._read_item(h) for h in hypotheses[:k]] for hypotheses in found]

    def check(self, request: RecommendRequest | RankRequest) -> int:
        """Raise what a request would raise, running nothing; see :meth:`podx.lookup.Lookup.check`."""
        return self._lookup.check(request)

    # --- search ---------------------------------------------------------------------------------------------------

    def _encode(self, task: Task, user: str, items: Numbers) -> EncodedInput:
        self._lookup.task_id(task)  # an unsupported task is named before anything is run
        return self._encoder.encode(task, self._lookup.user(user), items)

    def _search_items(
        self,
        task: Task,
        records: Sequence[EncodedInput],
        denied: Sequence[Numbers],
        allowed: Sequence[Numbers | None],
        k: int,
        search: ItemSearchOptions | None,
        batch_size: int,
    ) -> list[Recommendations]:
        _check_k(k)
        options = search or ItemSearchOptions()
        find = self._search.chosen(options)

        def run(rows: Sequence[int]) -> list[Recommendations]:
            batch = ItemBatch(
                self._encoder.collate([records[row] for row in rows]),
                self._lookup.task_id(task),
                [denied[row] for row in rows],
                [allowed[row] for row in rows],
                min(k, len(self._catalog)),
            )
            return self._recommendations(find(batch, options))

        return _in_batches(records, batch_size, run)

    def _recommendations(self, found: FoundItems) -> list[Recommendations]:
        raw = self._catalog.items.raw
        exact = [None] * len(found.items) if found.exact is None else found.exact.tolist()
        return [
            Recommendations(
                (
                    Recommendation(raw(int(item)), float(score))
                    for item, score in zip(items, scores, strict=True)
                    if item
                ),
                certain,
            )
            for items, scores, certain in zip(found.items.tolist(), found.scores.tolist(), exact, strict=True)
        ]

    def _search_text(
        self, task: Task, records: Sequence[EncodedInput], options: TextSearchOptions, batch_size: int
    ) -> list[list[Hypothesis]]:
        def run(rows: Sequence[int]) -> list[list[Hypothesis]]:
            batch = self._encoder.collate([records[row] for row in rows])
            stepper = self._model.stepper(self._model.encode(batch, self._lookup.task_id(task)), batch.size, None)
            return TextSearch(stepper, batch.size, options, self.bundle.manifest.start_token, self._eos).run()

        return _in_batches(records, batch_size, run)

    @cached_property
    def _number_of_text(self) -> dict[str, int]:
        """Items by their text as the tokeniser gives it back, which may differ from the catalogue's in white space."""
        decode = self.bundle.tokenizer.decode
        listed = (np.flatnonzero(self._catalog.listed) + 1).tolist()
        return {decode(self._catalog.target(number)).strip(): number for number in listed}

    def _read_item(self, hypothesis: Hypothesis) -> GeneratedItem:
        text = self.bundle.tokenizer.decode(hypothesis.tokens)
        number = self._number_of_text.get(text.strip())
        return GeneratedItem(text, None if number is None else self._catalog.items.raw(number), hypothesis.score)


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")


def _in_batches(
    records: Sequence[EncodedInput], batch_size: int, run: Callable[[Sequence[int]], list[Answer]]
) -> list[Answer]:
    """Run rows of similar length together, so that little is padded; answers in the order of the records."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    order = sorted(range(len(records)), key=lambda row: (len(records[row]), row))
    answers: dict[int, Answer] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        answers.update(zip(rows, run(rows), strict=True))
    return [answers[row] for row in range(len(records))]
