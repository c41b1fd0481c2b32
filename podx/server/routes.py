"""The server's own routes, version 1, and those of probes, Prometheus and people."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

import podx
from podx.server.answering import Answering
from podx.server.forms import Explain, Form, Items, Rank, Recommend, Reload, Sentence, read
from podx.server.openapi import ANYTHING, asks, body, reference, responses
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


def routes(service: Service, admin: bool) -> APIRouter:
    """All of them. ``admin``: with those that change what is served."""
    router = APIRouter()

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
        info = BundleInfo(
            loaded.version, podx.__version__, list(manifest.answered), len(loaded.catalog), len(loaded.users),
            manifest.max_history, service.settings.max_k, manifest.precision,
        )  # fmt: skip
        return json_response(info)

    @router.get("/health/live", **responses(ANYTHING))
    async def live(request: Request) -> Response:
        """Whether the process runs."""
        return json_response({"status": "live"})

    @router.get("/health/ready", **responses(ANYTHING, 503))
    async def ready(request: Request) -> Response:
        """Whether more requests should be sent here."""
        return json_response(
            {"status": "ready"} if service.ready else {"status": "stopping"}, 200 if service.ready else 503
        )

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    page = PAGE.read_bytes()

    @router.get("/", include_in_schema=False)
    async def try_it(request: Request) -> Response:
        return Response(page, media_type="text/html", headers=PAGE_HEADERS)

    if admin:

        @router.post("/admin/reload", **body(reference(Reload)), **responses(ANYTHING, 400, 401, 413, 504))
        async def reload(request: Request) -> Response:
            """Answer from another bundle from now on; one that does not load changes nothing."""
            path = read(await Answering(service, request).body() or b"{}", Reload).path
            return json_response({"bundle": await run_in_threadpool(service.swap, path)})

    return router
