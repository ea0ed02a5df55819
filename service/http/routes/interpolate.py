"""`POST /interpolate`: images along a path between two images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.engine.protocol import Interpolate, Layout
from service.errors import BadParameter
from service.http.answers import answer, answer_type, image_response
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import LayoutQuery, Seed, UploadQuery, client_of, refuse_body, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import PathAnswer
from service.http.uploads import OPTIONAL_UPLOAD_BODY
from service.http.validators import etag_of

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["latents"], responses=PROBLEM_RESPONSES)

ANIMATION_TYPES = {"webp": "image/webp", "apng": "image/apng"}


def _path_response() -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the answer: images, or an animation."""
    response = image_response(PathAnswer)
    binary = {"schema": {"type": "string", "format": "binary"}}
    response[200]["content"].update(dict.fromkeys(ANIMATION_TYPES.values(), binary))
    return response


class InterpolateQuery(LayoutQuery, UploadQuery):
    """Parameters of `POST /interpolate`."""

    start: int | None = Field(
        None, ge=0, description="Number of the pseudo-input at the start; the first uploaded image if left out."
    )
    end: int | None = Field(
        None, ge=0, description="Number of the pseudo-input at the end; the last uploaded image if left out."
    )
    steps: int = Field(16, ge=2, le=64, description="Images along the path, with both ends.")
    path: Literal["linear", "spherical"] = Field(
        "linear", description="In the top layer a line, or an arc around the origin, along which the norm changes less."
    )
    columns: int = Field(64, ge=1, le=64, description="Images in a row of a contact sheet: by default all of them.")
    animate: Literal["webp", "apng"] | None = Field(
        None, description="An animation, WebP or animated PNG, in place of `format`."
    )
    duration: int = Field(60, ge=20, le=1000, description="Time of each image of an animation, in milliseconds.")
    seed: Seed = 0


@router.post(
    "/interpolate",
    operation_id="interpolate",
    responses=_path_response(),
    response_class=Response,
    openapi_extra=OPTIONAL_UPLOAD_BODY,
)
async def interpolate(request: Request, query: Annotated[InterpolateQuery, Query()]) -> Response:
    """Show images along a path between two pseudo-inputs, two uploaded images, or one of each.

    The path goes through every layer. In the top one it leads from posterior mean to posterior mean (of a pseudo-input:
    the mean of its component). A lower layer is described by its distance from its conditional prior's mean, in
    standard deviations, which changes linearly along the path. Both ends are what `POST /reconstruct` gives for
    uploaded images. JSON also has the latents of the top layer and the components most responsible for them.
    """
    loaded = query.loaded(request)
    numbers = (query.start, query.end)
    for number in numbers:
        if number is not None:
            loaded.component(number)
    missing, levels, digests = numbers.count(None), b"", list[str]()
    if missing and "content-type" not in request.headers:
        raise BadParameter(
            "a path has two ends: give `start` and `end`, the numbers of two pseudo-inputs, or upload an image for "
            "each that is left out"
        )
    if missing:
        images = await query.images(request)
        if len(images) != missing:
            raise BadParameter(
                f"{len(images)} images were sent, but a path has two ends, of which {2 - missing} were given as "
                f"pseudo-inputs; send {missing}"
            )
        levels, digests = b"".join(images.levels()), images.digests()
    else:
        refuse_body(request)
    layout = query.layout(request, query.steps)
    if query.animate is not None:
        layout = Layout("png", 1, query.scale)
    path = Interpolate(
        levels,
        numbers,
        query.steps,
        query.path == "spherical",
        query.seed,
        layout,
        query.animate,
        query.duration,
    )

    async def compute() -> bytes:
        return await loaded.engine.interpolate(path, client_of(request))

    media_type = answer_type(request, layout) if query.animate is None else ANIMATION_TYPES[query.animate]
    settings = repr((numbers, query.steps, query.path, query.seed, layout, query.animate, query.duration))
    key = cache_key("interpolate", loaded.digest, settings, *digests)
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, media_type, loaded, seed=query.seed, hit=hit, etag=etag_of(key))
