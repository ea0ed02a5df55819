"""`POST /reconstruct`: uploaded images, encoded and decoded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.cache import cache_key
from service.http.answers import IMAGE_RESPONSE, answer, answer_type
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import LayoutQuery, Mode, Seed, UploadQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.uploads import UPLOAD_BODY
from service.http.validators import etag_of

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


class ReconstructQuery(LayoutQuery, UploadQuery):
    """Parameters of `POST /reconstruct`."""

    mode: Mode = "mean"
    seed: Seed = 0


@router.post(
    "/reconstruct",
    operation_id="reconstruct",
    responses=IMAGE_RESPONSE,
    response_class=Response,
    openapi_extra=UPLOAD_BODY,
)
async def reconstruct(request: Request, query: Annotated[ReconstructQuery, Query()]) -> Response:
    """Encode and decode images.

    `mean` passes the posterior means through the decoder; `draw` draws the latents from the posterior and the pixels
    from the decoder, with `seed`. Binary models see the upload thresholded at one half, gray ones as it is.
    """
    loaded, images, seed = query.loaded(request), await query.images(request), query.seed
    layout = query.layout(request, len(images))

    async def compute() -> bytes:
        return await loaded.engine.reconstruct(
            images.levels(), seed=seed, draw=query.mode == "draw", layout=layout, client=client_of(request)
        )

    key = cache_key("reconstruct", loaded.digest, repr((seed, query.mode, layout)), *images.digests())
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, answer_type(request, layout), loaded, seed=seed, hit=hit, etag=etag_of(key))
