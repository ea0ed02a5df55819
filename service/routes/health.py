"""`/health/*` and `/metrics`, for orchestrators."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.errors import NotReady
from service.problems import PROBLEM_RESPONSES
from service.routes.parameters import service_of
from service.schemas import Health

__all__ = ["router"]

router = APIRouter(tags=["operations"])


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> Health:
    """Answers as long as the process does."""
    return Health(status="live")


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses={503: PROBLEM_RESPONSES[503]})
async def ready(request: Request) -> Health:
    """200 once every model has loaded and run; 503 before, and while the service stops."""
    store = service_of(request).store
    if not store.ready:
        reasons = "; ".join(f"{item.reference}: {item.reason}" for item in store.refusals)
        state = f"the default model {store.default} is not there" if store.loaded else "models are loading"
        raise NotReady(f"{state}{': ' + reasons if reasons else ''}")
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    body, content_type = service_of(request).metrics.render()
    return Response(body, media_type=content_type)
