"""The application: a recommender, its limits and all routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

import podx
from podx.recommender import Recommender
from podx.server.gate import Gate
from podx.server.inference import KINDS, inference_routes
from podx.server.openapi import document
from podx.server.routes import BundleInfo, routes
from podx.server.service import Service
from podx.server.settings import Settings
from podx.server.statuses import HANDLERS


def create_app(recommender: Recommender, settings: Settings | None = None) -> FastAPI:
    """The HTTP service of a recommender, to be run by any ASGI server or mounted in another application.

    Args:
        recommender: who answers; may be called directly at the same time.
        settings: limits and keys; ``host``, ``port`` and ``watch`` are of ``podx serve`` alone.

    Returns:
        the application. ``app.state.service`` is its :class:`~podx.server.service.Service`; who mounts the application
        calls its ``close`` at the end, otherwise the server does.

    Raises:
        ConfigError: there is no key in the key file.
    """
    settings = settings or Settings()
    keys = settings.keys()
    service = Service(recommender, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="podx",
        version=podx.__version__,
        description="Recommendations of one bundle.",
        docs_url=None,  # they fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers=HANDLERS,  # type: ignore[arg-type]
    )
    app.state.service = service
    endpoints = {}
    for router in (routes(service, admin=bool(keys)), inference_routes(service)):
        app.include_router(router)
        known = [route for route in router.routes if isinstance(route, APIRoute)]
        endpoints.update({(method, route.path): route.endpoint for route in known for method in route.methods or ()})
    app.add_middleware(Gate, service=service, keys=keys, endpoints=endpoints)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app, settings, (*KINDS, BundleInfo))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
