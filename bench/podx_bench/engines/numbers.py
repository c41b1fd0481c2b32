"""``recommend_numbers.onnx`` as an engine: what a service in another language does, a map of raw ids and one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.decoding.options import ItemSearchOptions
from podx.graphs.model import GraphModel
from podx.graphs.numbers import NumberBatch, recommend_by_numbers
from podx.graphs.session import SessionOptions
from podx.requests.batch import Numbers
from podx.text.templates import Task
from podx_bench.workload.work import Answer, EngineContext, WorkItem


class NumbersEngine:
    """Runs the graph of a bundle that is given numbers.

    Raises:
        BundleError: the bundle is damaged, or has no such graph. DeviceError: ONNX Runtime does not have the device.
    """

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        bundle = Bundle.load(context.bundle)
        self._one_pass = bundle.manifest.one_pass
        options = SessionOptions(context.device, context.threads, context.spin)
        self._session = GraphModel(bundle, options).session(sig.NUMBERS_FILE)
        self._users = {raw: number for number, raw in enumerate(_texts(bundle.users.ids.raw_ids), start=1)}
        self._raw_ids = ["", *_texts(bundle.catalog.items.raw_ids)]
        self._items = {raw: number for number, raw in enumerate(self._raw_ids)}

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`. Many requests are run in their own order."""
        size = self._context.batch_size or len(requests)
        parts = (requests[first : first + size] for first in range(0, len(requests), size))
        return [answer for part in parts for answer in self._run_batch(part)]

    def _run_batch(self, requests: Sequence[WorkItem]) -> list[Answer]:
        users = [self._users.get(request.user, sig.NO_NUMBER) for request in requests]
        if self._context.task is Task.TOPN:
            histories = [self._numbers(request.history or () if self._one_pass else ()) for request in requests]
            batch = NumberBatch(users, histories, [self._numbers(())] * len(users), self._read(requests))
        else:
            seen = [self._numbers((*request.exclude, *request.items)) for request in requests]
            batch = NumberBatch(users, self._read(requests), seen, [None] * len(users))
        found = recommend_by_numbers(
            self._session, batch, self._context.k, ItemSearchOptions(beams=self._context.beams)
        )
        return [Answer(tuple(self._raw_ids[item] for item in row if item)) for row in found.items.tolist()]

    def _read(self, requests: Sequence[WorkItem]) -> list[Numbers]:
        return [self._numbers(request.items) for request in requests]

    def _numbers(self, raw_ids: Sequence[str]) -> Numbers:
        return np.array([self._items[raw] for raw in raw_ids], dtype=np.int64)


def _texts(raw_ids: npt.NDArray[np.bytes_]) -> list[str]:
    return [raw.decode() for raw in raw_ids.tolist()]
