"""The facade of the runtime: raw ids in, raw ids out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from podx.bundle.bundle import Bundle
from podx.bundle.manifest import Manifest
from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.errors import BundleError, ConfigError, PodxError, SwapError
from podx.graphs.catalog_search import SearchGraph
from podx.graphs.session import Device, SessionOptions, resolve_device
from podx.hub import bundle_folder
from podx.requests.encoder import EncodedRequest, common_task, task_of
from podx.requests.lookup import LongHistory, UnknownUser
from podx.requests.types import (
    ExplainRequest,
    Explanation,
    GeneratedItem,
    RankRequest,
    Recommendations,
    RecommendRequest,
)
from podx.snapshot import Snapshot
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx.text.templates import Task

DEFAULT_K = 10
DEFAULT_MAX_K = 1_000

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
    max_k: int = DEFAULT_MAX_K,
    tasks: Sequence[str] | None = None,
    revision: str | None = None,
    arm_bf16: bool = False,
) -> Recommender:
    """Open a bundle that ``podx export`` wrote.

    The graphs are opened, all files are mapped, and a few requests are answered, so that the first answer takes as long
    as the second. What happens to the folder afterwards (``podx catalog update --in-place``, another export, deletion)
    changes nothing; only writing into its files would, which podx never does.

    Args:
        path: the bundle folder; or, where there is no such folder, ``owner/name`` of a model on the Hugging Face Hub
            (:mod:`podx.hub`), which must hold a bundle.
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
        max_k: most items that a request may ask for. The search is at least k wide, so one large k holds up all others.
        tasks: tasks whose graphs are opened now; None: all that the model answers. Explanations and searches of the
            vocabulary have graphs of their own, which take as much memory again. Graphs of other tasks and searches,
            and of requests with item lists too long for the one graph, are opened when they are first needed, from what
            the files held at loading.
        revision: branch, tag or commit of a model on the Hub; None: its main branch.
        arm_bf16: on an Arm processor, let products of float32 be computed in bf16.

    Raises:
        BundleError: the folder is incomplete or damaged, or (BundleVersionError) of another format version; or the Hub
            has no such model.
        DeviceError: the device is not there. DependencyError: ONNX Runtime, or what reads from the Hub, is not
            installed.
        ConfigError: an option is out of range. UnsupportedTaskError: the model was not trained for one of the tasks.
    """
    if long_history not in ("error", "keep-last"):
        raise ConfigError(f"long_history must be 'error' or 'keep-last', not {long_history!r}")
    options = SessionOptions(resolve_device(device), threads, spin, cuda_graph, arm_bf16)
    bundle = Bundle.load(bundle_folder(path, revision), verify)
    return Recommender(bundle, options, long_history, search_graph, unknown_user, max_k, tasks, verify)


class Recommender:
    """Answers requests from a bundle. Thread-safe; the same request gives the same answer until :meth:`swap`.

    Each method has a ``_batch`` twin that takes requests, sorts them by length and runs ``batch_size`` at a time.

    Attributes:
        max_k: most items that a request may ask for.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        long_history: LongHistory = "error",
        search_graph: SearchGraph = "auto",
        unknown_user: UnknownUser = "error",
        max_k: int = DEFAULT_MAX_K,
        tasks: Sequence[str] | None = None,
        verify: bool = True,
    ) -> None:
        if max_k < 1:
            raise ConfigError(f"max_k must be at least 1, not {max_k}")
        self.max_k = max_k
        self._load = partial(Bundle.load, verify=verify)
        self._open = partial(
            Snapshot,
            options=options,
            long_history=long_history,
            search_graph=search_graph,
            unknown_user=unknown_user,
            tasks=tasks,
        )
        try:
            self._snapshot = self._open(bundle)  # every call reads it once, and so is answered from one bundle
            self._snapshot.try_out()
        except PodxError:
            raise
        except Exception as error:  # files that fit their checksums and not one another
            reason = f"{type(error).__name__}: {error}"
            raise BundleError(f"{bundle.path} does not answer ({reason}): export the model again") from error
        self._swapping = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """What answers now: the bundle with its graphs. It stays as it is after :meth:`swap`."""
        return self._snapshot

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers now."""
        return self._snapshot.bundle

    @property
    def manifest(self) -> Manifest:
        """What is in it."""
        return self.bundle.manifest

    @property
    def version(self) -> str:
        """12 hex digits that stand for everything in it, see :attr:`podx.bundle.bundle.Bundle.version`."""
        return self.bundle.version

    def swap(self, bundle: str | Path, *, trial: Sequence[RecommendRequest] = ()) -> None:
        """Answer from another bundle, opened as this one was, from here on.

        Calls under way end on the bundle they began with, later ones run on the new one. No call is held up or refused,
        and no answer comes from both. Until the last of the former has ended, both are in memory.

        Args:
            bundle: the folder; the one that is open already may have been replaced.
            trial: requests that the new bundle must answer, each with at least one item, before it takes over; none:
                those of the first users of whom it knows a history.

        Raises:
            SwapError: the bundle does not load, lacks a task of the present one (``tasks`` of :func:`load`), or fails
                the trial. The present one goes on answering.
        """
        with self._swapping:
            try:
                new = self._open(self._load(Path(bundle)))
                for task in self._snapshot.tasks:
                    new.requests.lookup.task_id(task)
                new.try_out(trial)
            except Exception as error:  # of whatever kind: none may end the service
                reason = str(error) if isinstance(error, PodxError) else f"{type(error).__name__}: {error}"
                raise SwapError(f"{bundle} does not take over, bundle {self.version} goes on: {reason}") from error
            self._snapshot = new

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
            UnsupportedTaskError: the model was not trained for this task. ConfigError: k is below 1 or above ``max_k``.
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
            UnsupportedTaskError: the model was not trained for this task. ConfigError: k is below 1 or above ``max_k``.
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
        self.check_k(k)
        snapshot = self._snapshot
        return snapshot.recommend(snapshot.encode(requests, exclude_seen), k, search, batch_size)

    def rank_batch(
        self,
        requests: Sequence[RankRequest],
        k: int = DEFAULT_K,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """:meth:`rank` for many requests; answers in the order of the requests."""
        self.check_k(k)
        snapshot = self._snapshot
        return snapshot.recommend(snapshot.encode(requests), k, search, batch_size)

    def explain_batch(
        self,
        requests: Sequence[ExplainRequest],
        search: TextSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Explanation]:
        """:meth:`explain` for many requests; answers in the order of the requests."""
        snapshot = self._snapshot
        records = [snapshot.requests.explanation(request) for request in requests]
        answers = snapshot.search_text(Task.EXPLANATION, records, search or TextSearchOptions(), batch_size)
        decode = snapshot.bundle.tokenizer.decode
        best, version = [hypotheses[0] for hypotheses in answers], snapshot.bundle.version
        return [Explanation(decode(each.tokens), each.score, version) for each in best]

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
        self.check_k(k)
        snapshot = self._snapshot
        if snapshot.bundle.manifest.one_pass:
            raise ConfigError("a one-pass model learnt to tell siblings apart: it has no search over all tokens")
        task = common_task(map(task_of, requests))
        answers = snapshot.search_text(task, [snapshot.requests.text(r) for r in requests], search, batch_size)
        return [[snapshot.reader.read(h) for h in hypotheses[:k]] for hypotheses in answers]

    def encode(
        self, requests: Sequence[RecommendRequest | RankRequest], exclude_seen: bool = True
    ) -> list[EncodedRequest]:
        """What ``recommend.onnx`` reads for each request; see :meth:`podx.requests.encoder.RequestEncoder.encode`."""
        return self._snapshot.encode(requests, exclude_seen)

    def recommend_encoded(
        self,
        requests: Sequence[EncodedRequest],
        k: int = DEFAULT_K,
        search: ItemSearchOptions | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[Recommendations]:
        """Answers to requests of one task that :meth:`encode` looked up before, in their order.

        Those that were encoded before a :meth:`swap` are looked up anew.

        Raises:
            ConfigError: the requests are not all of one kind, or an option is out of range.
            RequestError: a request cannot be answered from the bundle that took over.
        """
        self.check_k(k)
        return self._snapshot.recommend(requests, k, search, batch_size)

    def check_k(self, k: int) -> None:
        """Refuse a number of items that nobody may ask for.

        Raises:
            ConfigError: it is below 1 or above :attr:`max_k`.
        """
        if not 1 <= k <= self.max_k:
            raise ConfigError(f"k must be at least 1 and at most {self.max_k} (max_k of podx.load), not {k}")
