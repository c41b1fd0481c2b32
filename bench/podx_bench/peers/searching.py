"""What every peer is asked to search, and how its tokens become answers. Imports podx and numpy alone.

A peer searches the whole vocabulary, for none can be held to a catalog's trie. So that its work is podx's all the
same, it takes as many decoding steps as the deepest item and its end of sequence need, no hypothesis ends earlier, and
where podx's input begins with prompt vectors, its own begins with as many plain tokens. Explanations have podx's width
and lengths, and end when the peer ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from podx.bundle.bundle import Bundle
from podx.decoding.options import TextSearchOptions
from podx.text import batches
from podx.text.inputs import pad_rows
from podx.text.templates import Task
from podx_bench.peers.place import MODULES
from podx_bench.workload.work import Answer, EngineContext, RequestReader, WorkItem

Source = list[int]
Hypotheses = list[list[int]]
"""Tokens of one record's hypotheses, best first, without the decoder's start; pad and end may follow."""
Search = Callable[[Sequence[Source]], list[Hypotheses]]
"""Searches all records it is given, in whatever batches, and returns the hypotheses in their order."""


@dataclass(frozen=True)
class Plan(EngineContext):
    """What a peer's search is made from; ``checkpoint`` is what its ``convert`` wrote.

    Attributes:
        steps: decoding steps at most. least: of these, the first in which no sequence may end.
        pad_id: token that fills up short records.
    """

    steps: int = 0
    least: int = 0
    pad_id: int = 0

    @property
    def folder(self) -> Path:
        """What the peer's ``convert`` wrote."""
        assert self.checkpoint is not None  # prepare_peer has put it there
        return self.checkpoint


class PeerEngine:
    """A peer as an engine: raw ids to tokens, the peer's search, tokens to raw ids."""

    def __init__(self, context: EngineContext, open_search: Callable[[Plan], Search]) -> None:
        bundle = Bundle.load(context.bundle, verify=False)
        catalog = bundle.catalog
        self._bundle, self._reader = bundle, RequestReader(bundle, context.task)
        self._item_of_text = {catalog.text(item): catalog.items.raw(item) for item in range(1, len(catalog) + 1)}
        self._texts = context.task is Task.EXPLANATION
        depth, texts = catalog.trie.depth, TextSearchOptions()
        if self._texts:  # lengths of transformers count the decoder's start
            context = replace(context, beams=texts.beams_per_group, k=1)
            steps, least = texts.max_length - 1, texts.min_length - 1
        else:
            steps, least = depth + 1, depth
        self._search = open_search(Plan(**vars(context), steps=steps, least=least, pad_id=bundle.tokenizer.pad_id))

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`."""
        decode = self._bundle.tokenizer.decode
        lists = self._search([self._source(request) for request in requests])
        if self._texts:
            return [Answer(text=decode(found[0])) for found in lists]
        return [Answer(tuple(self._item_of_text.get(decode(tokens).strip()) for tokens in found)) for found in lists]

    def _source(self, request: WorkItem) -> Source:
        """Tokens of a request, the first of them repeated where podx has its prompt vectors."""
        tokens: Source = self._reader.encode(request).input_ids.tolist()
        return tokens[:1] * self._bundle.manifest.prompt_vectors + tokens


def peer_engine(context: EngineContext, name: str) -> PeerEngine:
    """The engine of a peer, in the environment that has its library."""
    return PeerEngine(context, partial(import_module(MODULES[name]).open_search, name))


Padded = Callable[[np.ndarray, np.ndarray], list[Hypotheses]]
"""Searches one batch: ``input_ids`` and ``attention_mask``, int64 [batch, source]."""


def in_batches(search: Padded, plan: Plan) -> Search:
    """A search over padded batches as one over any number of records: records of like length go together."""

    def run(sources: Sequence[Source]) -> list[Hypotheses]:
        def search_some(places: Sequence[int]) -> list[Hypotheses]:
            return search(*pad([sources[place] for place in places], plan.pad_id))

        return batches.in_batches(sources, plan.batch_size or len(sources), search_some)

    return run


def pad(sources: Sequence[Source], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Records filled up on the right to the longest, and their mask; int64 [batch, source]."""
    lengths = np.array([len(source) for source in sources])
    mask = (np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.int64)
    return pad_rows(sources, pad_id), mask
