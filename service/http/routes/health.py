"""`/health/*` and `/metrics`, for orchestrators."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service.errors import NotReady
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import Health

__all__ = ["router"]

BAD_PARAMETER: dict[int | str, dict[str, Any]] = {422: PROBLEM_RESPONSES[422]}

router = APIRouter(route_class=QueryRoute, tags=["operations"], responses=BAD_PARAMETER)


@router.get("/health/live", operation_id="live")
async def live(_: Request) -> Health:
    """Answers as long as the process does."""
    return Health(status="live")


@router.get("/health/ready", operation_id="ready", responses={503: PROBLEM_RESPONSES[503]})
async def ready(request: Request) -> Health:
    """200 once every model has loaded and run; 503 before, and while the service stops."""
    store = service_of(request).store
    if not store.ready:
        raise NotReady(store.unready_reason)
    return Health(status="ready")


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    body, content_type = service_of(request).metrics.render()
    return Response(body, media_type=content_type)
