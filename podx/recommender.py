"""The facade of the runtime: raw ids in, raw ids out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from podx.bundle.bundle import Bundle
from podx.decoding.generated_items import ItemReader
from podx.decoding.items import ItemResults
from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.decoding.text import Hypothesis, TextSearch
from podx.errors import ConfigError
from podx.graphs.catalog_search import CatalogSearch, SearchGraph
from podx.graphs.model import GraphModel
from podx.graphs.session import Device, SessionOptions, resolve_device
from podx.requests.encoder import EncodedRequest, RequestEncoder, common_task, task_of
from podx.requests.lookup import LongHistory, UnknownUser
from podx.requests.types import (
    ExplainRequest,
    Explanation,
    GeneratedItem,
    RankRequest,
    Recommendation,
    Recommendations,
    RecommendRequest,
    UserKind,
)
from podx.text.batches import DEFAULT_BATCH_SIZE, in_batches
from podx.text.inputs import EncodedInput
from podx.text.templates import Task

DEFAULT_K = 10

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
    cuda_graph: bool = True,
    unknown_user: UnknownUser = "error",
) -> Recommender:
    """Open a bundle that ``podx export`` wrote.

    Args:
        path: the bundle folder.
        device: ``auto`` takes the GPU where ONNX Runtime has one.
        threads: threads inside an operator; 0 = one per core.
        spin: let waiting threads wait busily while a graph runs (see :class:`podx.graphs.session.SessionOptions`).
        long_history: what to do with a history of more items than the model reads.
        verify: compare every file with its checksum.
        search_graph: how items are searched for. ``one``: by ``recommend.onnx``, which does a whole search in one run;
            ``steps``: by the step graphs, the search itself in numpy; ``auto``: by the one graph where it can.
        cuda_graph: on CUDA, replay the whole search as a CUDA graph (:mod:`podx.graphs.cuda_graph`).
        unknown_user: ``nearest``: recommend for users whom the model does not know by what is most like them, the known
            users whose items are most similar to the given history (:mod:`podx.requests.cold_start`).

    Raises:
        BundleError: the folder is incomplete or damaged, or (BundleVersionError) of another format version.
        DeviceError: the device is not there. DependencyError: ONNX Runtime is not installed.
        ConfigError: an option is out of range.
    """
    if long_history not in ("error", "keep-last"):
        raise ConfigError(f"long_history must be 'error' or 'keep-last', not {long_history!r}")
    options = SessionOptions(resolve_device(device), threads, spin, cuda_graph)
    return Recommender(Bundle.load(Path(path), verify), options, long_history, search_graph, unknown_user)


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
        unknown_user: UnknownUser = "error",
    ) -> None:
        self.bundle = bundle
        self._requests = RequestEncoder(bundle, long_history, unknown_user)
        self._model = GraphModel(bundle, options)
        self._search = CatalogSearch(bundle, self._model, search_graph)
        self._catalog = bundle.catalog
        self._reader = ItemReader(bundle.catalog, bundle.tokenizer)
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
            k distinct items of the catalog; fewer only where fewer are permitted.

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
        history: Sequence[str] | None = None,
    ) -> Recommendations:
        """The k best of the candidates, best first (top-N recommendation). Nothing else can come back.

        Args:
            user, candidates, exclude, history: see :class:`RankRequest`.
            k: how many items are wanted.
            search: width and scoring of the beam search.

        Raises:
            UnknownUserError, UnknownItemError: an id the model does not know.
            CandidatesError: no candidates, one given twice, or more than the model reads.
            HistoryError: a history is needed and not known, or given and not read.
            UnsupportedTaskError: the model was not trained for this task. ConfigError: k is below 1.
        """
        return self.rank_batch([RankRequest(user, candidates, exclude, history)], k, search)[0]

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
        return self.recommend_encoded(self.encode(requests, exclude_seen), k, search, batch_size)

    def rank_batch(
        self,
        requests: Sequence[RankRequest],
        k: int = DEFAULT_K,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """:meth:`rank` for many requests; answers in the order of the requests."""
        return self.recommend_encoded(self.encode(requests), k, search, batch_size)

    def explain_batch(
        self,
        requests: Sequence[ExplainRequest],
        search: TextSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Explanation]:
        """:meth:`explain` for many requests; answers in the order of the requests."""
        records = [self._requests.explanation(request) for request in requests]
        answers = self._search_text(Task.EXPLANATION, records, search or TextSearchOptions(), batch_size)
        decode = self.bundle.tokenizer.decode
        return [Explanation(decode(hypotheses[0].tokens), hypotheses[0].score) for hypotheses in answers]

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
            ConfigError: the requests are not all of one kind, or the model is a one-pass model, which tells siblings
                apart and cannot write freely.
        """
        _check_k(k)
        if self.bundle.manifest.one_pass:
            raise ConfigError("a one-pass model learnt to tell siblings apart: it has no search over all tokens")
        task = common_task(map(task_of, requests))
        answers = self._search_text(task, [self._requests.text(r) for r in requests], search, batch_size)
        return [[self._reader.read(h) for h in hypotheses[:k]] for hypotheses in answers]

    def encode(
        self, requests: Sequence[RecommendRequest | RankRequest], exclude_seen: bool = True
    ) -> list[EncodedRequest]:
        """What ``recommend.onnx`` reads for each request; see :meth:`podx.requests.encoder.RequestEncoder.encode`."""
        return [self._requests.encode(request, exclude_seen) for request in requests]

    def recommend_encoded(
        self,
        requests: Sequence[EncodedRequest],
        k: int = DEFAULT_K,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """Answers to requests of one task that :meth:`encode` looked up before, in their order.

        Raises:
            ConfigError: the requests are not all of one kind, or an option is out of range.
        """
        _check_k(k)
        common_task(request.task for request in requests)
        search_batch = self._search.chosen(search or ItemSearchOptions())

        def run(rows: Sequence[int]) -> list[Recommendations]:
            chosen = [requests[row] for row in rows]
            results = search_batch(self._requests.batch(chosen, min(k, len(self._catalog))))
            return self._recommendations(results, [request.user for request in chosen])

        return in_batches([request.text for request in requests], batch_size, run)

    # --- search ---------------------------------------------------------------------------------------------------

    def _recommendations(self, results: ItemResults, users: Sequence[UserKind]) -> list[Recommendations]:
        raw = self._catalog.items.raw
        exact = [None] * len(results.items) if results.exact is None else results.exact.tolist()
        return [
            Recommendations(
                (Recommendation(raw(item), score) for item, score in zip(items, scores, strict=True) if item),
                certain,
                user,
            )
            for items, scores, certain, user in zip(
                results.items.tolist(), results.scores.tolist(), exact, users, strict=True
            )
        ]

    def _search_text(
        self, task: Task, records: Sequence[EncodedInput], options: TextSearchOptions, batch_size: int
    ) -> list[list[Hypothesis]]:
        def run(rows: Sequence[int]) -> list[list[Hypothesis]]:
            batch = self._requests.inputs.collate([records[row] for row in rows])
            memory = self._model.encode(batch, self._requests.lookup.task_id(task))
            stepper = self._model.stepper(memory, batch.size, None)
            return TextSearch(stepper, batch.size, options, self.bundle.manifest.start_token, self._eos).run()

        return in_batches(records, batch_size, run)


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1, not {k}")
