"""The application: settings in, ASGI out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service.cache import create_cache
from service.http.access import AccessControl
from service.http.documentation import install_documentation
from service.http.gateway import Gateway
from service.http.problems import WebSocketRefusal, install_error_handlers
from service.http.routes import encode, health, loglik, models, novelty, pseudo_inputs, reconstruct, sample
from service.http.routes.parameters import Service
from service.http.routes.query import handlers_of
from service.http.uploads import UploadReader, document_limits
from service.metrics import Metrics
from service.models.store import ModelStore
from service.settings import Settings, ignored_variables

__all__ = ["Application", "create_app"]

logger = logging.getLogger(__name__)

DESCRIPTION = """
A density model at work: a hierarchical VAE with a VampPrior (Tomczak & Welling, 2018).

Every call below can be tried as it stands: unfold it and press *Execute*. PNG, JPEG and WebP images go in as multipart
`file`, as a raw body or as base64 in JSON (filled in here), and come out as PNG, JSON or NPY. The same `seed` gives the
same answer. Errors are `application/problem+json`.
"""

ROUTERS = (sample, reconstruct, loglik, novelty, encode, pseudo_inputs, models, health)


class Application(FastAPI):
    """FastAPI, with a gateway before it that answers the routes of the service itself.

    FastAPI documents these routes, and answers what is left: the documentation, and paths and methods that there are
    not.
    """

    gateway: Gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the start and the end of the server."""
        scope["app"] = self
        await self.gateway(scope, receive, send)


def create_app(settings: Settings) -> Application:
    """A new application, which shares nothing with others in the process."""
    metrics, access = Metrics(), AccessControl.of(settings)
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

    app = Application(
        title="VampPrior density model service",
        description=DESCRIPTION,
        version=version("vampprior"),
        lifespan=lifespan,
        telemetry={"metrics": False, "logs": False},  # the service has its own
        docs_url=None,  # `install_documentation` adds a page without a CDN
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would go to whatever host the request names
    )
    app.state.service = service
    # As they are, since `include_router` would try each of its router's routes on the way to the next router's.
    routes = [route for module in ROUTERS for route in module.router.routes]
    app.router.routes[:0] = routes
    document_limits(app, settings)
    app.router.routes.append(WebSocketRefusal())
    install_documentation(app, settings)
    install_error_handlers(app)
    app.gateway = Gateway(
        partial(FastAPI.__call__, app),
        metrics=metrics,
        access=access,
        store=service.store,
        deadline=settings.deadline_seconds,
        max_bytes=settings.max_body_bytes,
        handlers=handlers_of(routes),
        routes=app.router.routes,
    )
    return app


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the model store could not be read", exc_info=error)
