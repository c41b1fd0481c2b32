"""The server's own routes, version 1, and those of probes, Prometheus and people."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

import podx
from podx.server.answering import Answering
from podx.server.forms import Explain, Form, Items, Rank, Recommend, Reload, Sentence, read
from podx.server.openapi import Direct, asks, body, reference, responses
from podx.server.service import Row, Service
from podx.server.statuses import json_response

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class BundleInfo(msgspec.Struct):
    """What answers now. ``tasks``: those that may be asked for; ``max_history``: items that the model reads."""

    bundle: str
    podx: str
    tasks: list[str]
    items: int
    users: int
    max_history: int
    max_k: int
    precision: str


class State(msgspec.Struct):
    """A word for people; probes read the status."""

    status: str


class Version(msgspec.Struct):
    """The bundle that answers."""

    bundle: str


def routes(service: Service, admin: bool) -> APIRouter:
    """All of them. ``admin``: with those that change what is served."""
    router = APIRouter(route_class=Direct)

    def asked(path: str, row: type, answer: type) -> None:
        form: Form[Row] = Form(row)

        async def ask(request: Request) -> Response:
            return await Answering(service, request).respond(form)

        ask.__doc__ = row.__doc__
        router.post(path, operation_id=path.removeprefix("/v1/"), **asks(row, answer))(ask)

    asked("/v1/recommend", Recommend, Items)
    asked("/v1/rank", Rank, Items)
    asked("/v1/explain", Explain, Sentence)

    @router.get("/v1/bundle", **responses(reference(BundleInfo), 401))
    async def bundle(request: Request) -> Response:
        """The bundle that answers now."""
        loaded = service.recommender.bundle
        manifest = loaded.manifest
        return json_response(
            BundleInfo(
                bundle=service.recommender.version,
                podx=podx.__version__,
                tasks=list(manifest.answered),
                items=len(loaded.catalog),
                users=len(loaded.users),
                max_history=manifest.max_history,
                max_k=service.settings.max_k,
                precision=manifest.precision,
            )
        )

    @router.get("/health/live", **responses(reference(State)))
    async def live(request: Request) -> Response:
        """Whether the process runs."""
        return json_response(State("live"))

    @router.get("/health/ready", **responses(reference(State), 503))
    async def ready(request: Request) -> Response:
        """Whether more requests should be sent here."""
        return json_response(State("ready")) if service.ready else json_response(State("stopping"), 503)

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    page = PAGE.read_bytes()

    @router.get("/", include_in_schema=False)
    async def try_it(request: Request) -> Response:
        return Response(page, media_type="text/html", headers=PAGE_HEADERS)

    if admin:

        @router.post("/admin/reload", **body(reference(Reload)), **responses(reference(Version), 400, 401, 413, 504))
        async def reload(request: Request) -> Response:
            """Answer from another bundle from now on; one that does not load changes nothing."""
            path = read(await Answering(service, request).body() or b"{}", Reload).path
            return json_response(Version(await run_in_threadpool(partial(service.swap, path))))

    return router
