"""The application: settings in, ASGI out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.cache import create_cache
from service.http.access import AccessControl
from service.http.answers import ANSWER_HEADERS
from service.http.documentation import install_documentation
from service.http.gateway import Gateway
from service.http.openapi import DESCRIPTION, TAGS, install_document
from service.http.problems import WebSocketRefusal, install_error_handlers
from service.http.routes import (
    calibration,
    decode,
    encode,
    health,
    interpolate,
    loglik,
    models,
    novelty,
    pseudo_inputs,
    reconstruct,
    sample,
)
from service.http.routes.parameters import Service
from service.http.routes.query import handlers_of
from service.http.routes.v2 import inference, metadata
from service.http.routes.v2.tensors import LENGTH_HEADER
from service.http.studio import install_studio
from service.http.uploads import UploadReader
from service.metrics import Metrics
from service.models.store import ModelStore
from service.settings import Settings, ignored_variables
from service.tracing import Tracer

__all__ = ["Application", "create_app"]

logger = logging.getLogger(__name__)

ROUTERS = (
    sample,
    reconstruct,
    loglik,
    novelty,
    encode,
    pseudo_inputs,
    decode,
    interpolate,
    models,
    calibration,
    health,
    metadata,
    inference,
)


class Application(FastAPI):
    """FastAPI, with a gateway before it that answers the routes of the service itself.

    FastAPI documents these routes, and answers what is left: the documentation, and paths and methods that there are
    not.
    """

    entry: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the start and the end of the server."""
        scope["app"] = self
        await self.entry(scope, receive, send)


def create_app(settings: Settings) -> Application:
    """A new application, which shares nothing with others in the process."""
    metrics, access = Metrics(), AccessControl.of(settings)
    tracer = Tracer(settings.otlp_endpoint) if settings.otlp_endpoint else None
    service = Service(
        settings, metrics, ModelStore(settings, metrics), create_cache(settings, metrics), UploadReader(settings)
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if ignored := ignored_variables():
            logger.warning("ignored, since they announce a service of the same name: %s", ", ".join(ignored))
        loading = asyncio.create_task(service.store.load())
        loading.add_done_callback(_report)
        yield
        service.store.stopping = True
        loading.cancel()
        service.uploads.close()
        await service.cache.close()
        await access.close()
        await service.store.close(settings.shutdown_seconds)
        if tracer is not None:
            await tracer.close()

    app = Application(
        title="VampPrior density model service",
        description=DESCRIPTION,
        version=version("vampprior"),
        openapi_tags=TAGS,
        servers=[{"url": settings.root_path or "/"}],
        root_path_in_servers=False,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the service has its own
        docs_url=None,  # `install_documentation` adds a page without a CDN
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would go to whatever host the request names
    )
    app.state.service = service
    # As they are, since `include_router` would try each of its router's routes on the way to the next router's.
    routes = [route for module in ROUTERS for route in module.router.routes]
    app.router.routes[:0] = routes
    app.router.routes.append(WebSocketRefusal())
    install_documentation(app)
    install_studio(app)
    install_document(app, settings)
    install_error_handlers(app)
    gateway = Gateway(
        partial(FastAPI.__call__, app),
        metrics=metrics,
        access=access,
        store=service.store,
        deadline=settings.deadline_seconds,
        max_bytes=settings.max_body_bytes,
        stream_bytes=settings.stream_bytes,
        handlers=handlers_of(routes),
        routes=app.router.routes,
        tracer=tracer,
    )
    app.entry = _with_cors(gateway, settings.cors_origin_list())
    return app


def _with_cors(gateway: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The gateway, behind a layer that lets pages of these origins call it, if there are any."""
    if not origins:
        return gateway
    return CORSMiddleware(
        gateway,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Content-Type", "If-None-Match", LENGTH_HEADER, "X-API-Key", "X-Request-ID"],
        expose_headers=[*ANSWER_HEADERS, LENGTH_HEADER, "Link", "Retry-After", "X-Request-ID"],
    )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the model store could not be read", exc_info=error)
