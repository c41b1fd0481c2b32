"""Routes of the Open Inference Protocol, version 2, as KServe, Triton and Seldon have them.

The model is ``podx``; row ``n`` of every tensor belongs to request ``n``. All requests of a call are answered, or the
call fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Request, Response
from msgspec import Meta, Struct

import podx
from podx.errors import PodxError, RequestError
from podx.recommender import DEFAULT_K
from podx.server.answering import Answering
from podx.server.forms import Items, K, Recommend, read
from podx.server.openapi import ANYTHING, ASKED, body, reference, responses
from podx.server.service import Service
from podx.server.statuses import failed, json_response

MODEL = "podx"
LISTS = ("history", "exclude", "allow")
TEXTS, VECTOR, MATRIX = "BYTES", [-1], [-1, -1]


class Texts(Struct):
    """An input: raw ids, ``data`` row by row or nested."""

    name: Literal["user", "history", "exclude", "allow"]
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    data: list[str | list[str]]

    def rows(self) -> list[list[str]]:
        """The ids of each row, without what fills it up."""
        flat = [text for entry in self.data for text in ([entry] if isinstance(entry, str) else entry)]
        rows, width = (*self.shape, 1)[:2]
        if rows * width != len(flat) or not width:  # rows of nothing could be any number
            raise RequestError(f"{self.name!r} has {len(flat)} texts: give as many as its shape says, or leave it out")
        return [[text for text in flat[row * width : (row + 1) * width] if text] for row in range(rows)]


class Wanted(Struct):
    """An output that is asked for."""

    name: Literal["item", "score", "exact", "bundle"]


class Parameters(Struct, frozen=True):
    """What holds for all rows."""

    k: K = DEFAULT_K


class Infer(Struct, kw_only=True):
    """Requests for the next items: ``user`` [n]; ``history``, ``exclude``, ``allow`` [n, m], each filled up with ""."""

    id: str = ""
    inputs: Annotated[list[Texts], Meta(max_length=4)]  # each of them once
    outputs: Annotated[list[Wanted], Meta(max_length=4)] = []
    parameters: Parameters = Parameters()

    def rows(self) -> list[Recommend]:
        """The requests.

        Raises:
            RequestError: the inputs do not fit together.
        """
        tensors: dict[str, list[list[str]]] = {tensor.name: tensor.rows() for tensor in self.inputs}
        users = tensors.get("user", [])
        if len(tensors) < len(self.inputs) or any(len(rows) != len(users) for rows in tensors.values()):
            raise RequestError("give each input once, and the same number of rows to all, 'user' among them")
        requests = []
        for number, user in enumerate(users):
            if len(user) > 1:
                raise RequestError("'user' has several texts in a row: give one")
            request = Recommend(user="".join(user), k=self.parameters.k)
            for name in LISTS:
                if name in tensors and (items := tensors[name][number]):
                    setattr(request, name, items)
            requests.append(request)
        return requests


class Tensor(Struct):
    """An output, row by row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Inferred(Struct):
    """The answers. ``exact`` is false where it is not known; where fewer items than k may be, "" and 0 fill the row."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str = ""


class TensorInfo(Struct):
    """What a tensor must be."""

    name: str
    datatype: str
    shape: list[int]


class ModelInfo(Struct):
    """What the model reads and returns."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


KINDS = (Infer, Inferred, ModelInfo)
READS = [TensorInfo("user", TEXTS, VECTOR), *(TensorInfo(name, TEXTS, MATRIX) for name in LISTS)]
RETURNS = [
    TensorInfo("item", TEXTS, MATRIX),
    TensorInfo("score", "FP32", MATRIX),
    TensorInfo("exact", "BOOL", VECTOR),
    TensorInfo("bundle", TEXTS, VECTOR),
]


def tensors_of(answers: Sequence[Items], k: int) -> list[Tensor]:
    """Answers as tensors."""
    filled = [
        [*((a.item, a.score) for a in answer.items), *[("", 0.0)] * (k - len(answer.items))] for answer in answers
    ]
    data: dict[str, list[Any]] = {
        "item": [item for row in filled for item, _ in row],
        "score": [score for row in filled for _, score in row],
        "exact": [answer.exact is True for answer in answers],
        "bundle": [answer.bundle for answer in answers],
    }
    size = [len(answers), k]
    return [Tensor(info.name, info.datatype, size[: len(info.shape)], data[info.name]) for info in RETURNS]


def inference_routes(service: Service) -> APIRouter:
    """All of the protocol's routes."""
    router = APIRouter(prefix="/v2")

    @router.get("/health/live", **responses(ANYTHING))
    async def live(request: Request) -> Response:
        """Whether the process runs."""
        return json_response({"live": True})

    @router.get("/health/ready", **responses(ANYTHING, 503))
    @router.get(f"/models/{MODEL}/ready", **responses(ANYTHING, 401, 503))
    async def ready(request: Request) -> Response:
        """Whether more requests should be sent here."""
        return json_response({"ready": service.ready}, 200 if service.ready else 503)

    @router.get("", **responses(ANYTHING, 401))
    async def server(request: Request) -> Response:
        """The server."""
        return json_response({"name": "podx", "version": podx.__version__, "extensions": []})

    @router.get(f"/models/{MODEL}", **responses(reference(ModelInfo), 401))
    async def model(request: Request) -> Response:
        """What the model reads and returns."""
        return json_response(ModelInfo(MODEL, [service.recommender.version], "podx_onnx", READS, RETURNS))

    @router.post(
        f"/models/{MODEL}/infer", **body(reference(Infer)), **responses(reference(Inferred), 401, *ASKED)
    )  # fmt: skip
    async def infer(request: Request) -> Response:
        """The next items for some users."""
        answering = Answering(service, request)
        asked = read(await answering.body(), Infer)
        service.require_allowed(asked.parameters.k)  # there may be no rows
        outcomes = await answering.outcomes(asked.rows())
        for outcome in outcomes:
            if isinstance(outcome, PodxError):
                return failed(outcome)
        answers = cast(list[Items], outcomes)
        wanted: set[str] = {output.name for output in asked.outputs} or {info.name for info in RETURNS}
        outputs = [tensor for tensor in tensors_of(answers, asked.parameters.k) if tensor.name in wanted]
        version = answers[-1].bundle if answers else service.recommender.version
        return json_response(Inferred(MODEL, version, outputs, asked.id))

    return router
