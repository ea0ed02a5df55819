"""`GET /pseudo-inputs`: what the prior's components stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.errors import PseudoInputNotFound
from service.http.answers import MEDIA_TYPES, answer, image_response
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import MAX_SEED, LayoutQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import PseudoInputList
from service.models.loaded import LoadedModel

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["pseudo-inputs"], responses=PROBLEM_RESPONSES)

GALLERY_RESPONSE = image_response(PseudoInputList)


class PseudoInputQuery(LayoutQuery):
    """Parameters of `GET /pseudo-inputs/{k}`."""

    stretch: bool = Field(
        True,
        description="Brighten each image of a PNG until its brightest pixel is white; JSON and NPY give the values.",
    )


class GalleryQuery(PseudoInputQuery):
    """Parameters of `GET /pseudo-inputs`."""

    offset: int = Field(0, ge=0, le=MAX_SEED, description="Leave out this many first.")
    limit: int = Field(100, ge=1, le=1000, description="Show at most this many.")
    sort: Literal["index", "weight"] = Field(
        "index", description="By number, or the greatest weight in the prior first."
    )


@router.get("/pseudo-inputs", responses=GALLERY_RESPONSE, response_class=Response)
async def gallery(request: Request, query: Annotated[GalleryQuery, Query()]) -> Response:
    """The gallery: the learned pseudo-inputs, or for a prior that has none its components decoded at their means."""
    loaded, offset = query.loaded(request), query.offset
    order = np.argsort(-loaded.weights, kind="stable") if query.sort == "weight" else np.arange(loaded.num_components)
    chosen = [int(index) for index in order[offset : offset + query.limit]]
    return await _show(request, query, loaded, chosen, offset)


@router.get("/pseudo-inputs/{k}", responses=GALLERY_RESPONSE, response_class=Response)
async def one(
    request: Request,
    query: Annotated[PseudoInputQuery, Query()],
    k: Annotated[int, Path(ge=0, description="Number of the pseudo-input.", openapi_examples={"one": {"value": 42}})],
) -> Response:
    """One pseudo-input, or for a prior that has none one component decoded at its mean."""
    loaded = query.loaded(request)
    return await _show(request, query, loaded, [loaded.component(k)], offset=k)


async def _show(
    request: Request, query: PseudoInputQuery, loaded: LoadedModel, chosen: Sequence[int], offset: int
) -> Response:
    layout = query.layout(request, len(chosen))
    if not chosen and layout.format == "png":
        raise PseudoInputNotFound(f"the gallery of {loaded.reference} ends before offset {offset}")

    async def compute() -> bytes:
        return await loaded.engine.gallery(
            chosen, offset=offset, stretch=query.stretch, layout=layout, client=client_of(request)
        )

    key = cache_key("pseudo-inputs", loaded.digest, repr((offset, chosen, layout, query.stretch)))
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, MEDIA_TYPES[layout.format], loaded, hit=hit)
