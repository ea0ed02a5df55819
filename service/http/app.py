"""The application: settings in, ASGI out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.cache import create_cache
from service.http.documentation import install_documentation
from service.http.middleware import install_middleware
from service.http.problems import WebSocketRefusal, install_error_handlers
from service.http.routes import encode, health, loglik, models, pseudo_inputs, reconstruct, sample
from service.http.routes.parameters import Service
from service.http.uploads import UploadReader, document_limits
from service.metrics import Metrics
from service.models.store import ModelStore
from service.settings import Settings, ignored_variables

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

DESCRIPTION = """
A density model at work: a hierarchical VAE with a VampPrior (Tomczak & Welling, 2018).

Every call below can be tried as it stands: unfold it and press *Execute*. PNG, JPEG and WebP images go in as multipart
`file`, as a raw body or as base64 in JSON (filled in here), and come out as PNG, JSON or NPY. The same `seed` gives the
same answer. Errors are `application/problem+json`.
"""

ROUTERS = (sample, reconstruct, loglik, encode, pseudo_inputs, models, health)


def create_app(settings: Settings) -> FastAPI:
    """A new application, which shares nothing with others in the process."""
    metrics = Metrics()
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
        for limit in rate_limits:
            await limit.close()
        await service.store.close(settings.shutdown_seconds)

    app = FastAPI(
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
    app.router.routes[:0] = [route for module in ROUTERS for route in module.router.routes]
    document_limits(app, settings)
    app.router.routes.append(WebSocketRefusal())
    install_documentation(app, settings)
    install_error_handlers(app)
    rate_limits = install_middleware(app, settings, metrics, service.store)
    return app


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the model store could not be read", exc_info=error)
