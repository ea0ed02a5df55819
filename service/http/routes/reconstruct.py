"""`POST /reconstruct`: uploaded images, encoded and decoded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.cache import cache_key
from service.engine.protocol import Layout
from service.http.answers import IMAGE_RESPONSE, answer, answer_type
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import LayoutQuery, Mode, Seed, Service, UploadQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.uploads import UPLOAD_BODY, ModelImages
from service.http.validators import etag_of
from service.models.loaded import LoadedModel

__all__ = ["reconstruct_images", "router"]

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
    loaded, images = query.loaded(request), await query.images(request)
    layout = query.layout(request, len(images))
    body, hit, key = await reconstruct_images(
        service_of(request), loaded, images, query.seed, query.mode, layout, client_of(request)
    )
    return answer(body, answer_type(request, layout), loaded, seed=query.seed, hit=hit, etag=etag_of(key))


async def reconstruct_images(
    service: Service, loaded: LoadedModel, images: ModelImages, seed: int, mode: str, layout: Layout, client: str
) -> tuple[bytes, bool, str]:
    """Reconstructions as a body; whether the cache had it, and its key."""

    async def compute() -> bytes:
        return await loaded.engine.reconstruct(
            images.levels(), seed=seed, draw=mode == "draw", layout=layout, client=client
        )

    key = cache_key("reconstruct", loaded.digest, repr((seed, mode, layout)), *images.digests())
    return *await service.cache.get_or_compute(key, compute), key
