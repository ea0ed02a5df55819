"""`GET /models/{name}/calibration` and `/map`: what a calibration knows of its images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.errors import CalibrationNotFound
from service.http.answers import ANSWER_HEADERS, cached_answer
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.models import Name
from service.http.routes.parameters import client_of, service_of
from service.http.routes.query import QueryModel, QueryRoute
from service.http.schemas import CalibrationAnswer, LatentMapAnswer

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["models"], responses=PROBLEM_RESPONSES)


class CalibrationQuery(QueryModel):
    """Parameters of both calls."""

    calibration: str = Field("default", max_length=100, description="Name of the calibration, as for `POST /novelty`.")


@router.get(
    "/models/{name}/calibration",
    operation_id="get_calibration",
    response_model=CalibrationAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
)
async def calibration(request: Request, name: Name, query: Annotated[CalibrationQuery, Query()]) -> Response:
    """How novelty scores and log-likelihoods of the calibration images are distributed."""
    loaded, chosen = service_of(request).store.resolve(name), query.calibration
    loaded.calibration_size(chosen)

    async def compute() -> bytes:
        return await loaded.engine.quantiles(chosen, client_of(request))

    key = cache_key("calibration", loaded.digest, repr(chosen))
    return await cached_answer(request, loaded, service_of(request).cache, key, compute, "application/json")


@router.get(
    "/models/{name}/map",
    operation_id="get_latent_map",
    response_model=LatentMapAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
)
async def latent_map(request: Request, name: Name, query: Annotated[CalibrationQuery, Query()]) -> Response:
    """The top layer of latents in two dimensions: the prior's components and up to 2,000 calibration images.

    The plane is that of the two main components of the images' posterior means. A place (x, y) of it stands for the
    latent `mean + x * components[0] + y * components[1]`, which `POST /decode` turns into an image.
    """
    loaded, chosen = service_of(request).store.resolve(name), query.calibration
    loaded.calibration_size(chosen)

    async def compute() -> bytes:
        body = await loaded.engine.map(chosen, client_of(request))
        if not body:
            raise CalibrationNotFound(f"the calibration {chosen!r} of {loaded.reference} has no map; calibrate again")
        return body

    key = cache_key("map", loaded.digest, repr(chosen))
    return await cached_answer(request, loaded, service_of(request).cache, key, compute, "application/json")
