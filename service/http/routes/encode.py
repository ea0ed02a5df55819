"""`POST /encode`: where uploaded images lie in latent space."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.http.answers import ANSWER_HEADERS, answer, results_json
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import Service, UploadQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import EncodeAnswer
from service.http.uploads import UPLOAD_BODY, ModelImages
from service.http.validators import etag_of
from service.models.loaded import LoadedModel

__all__ = ["encode_images", "router"]

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


class EncodeQuery(UploadQuery):
    """Parameters of `POST /encode`."""

    top: int = Field(5, ge=1, le=100, description="How many of the most responsible components to name.")


@router.post(
    "/encode",
    operation_id="encode",
    response_model=EncodeAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
    openapi_extra=UPLOAD_BODY,
)
async def encode(request: Request, query: Annotated[EncodeQuery, Query()]) -> Response:
    """Posterior means and standard deviations of every stochastic layer, and the prior components nearest the image."""
    loaded, images = query.loaded(request), await query.images(request)
    results, hit, key = await encode_images(service_of(request), loaded, images, query.top, client_of(request))
    body = results_json(loaded, images.names, results)
    return answer(body, "application/json", loaded, hit=hit, etag=etag_of(key, *images.names))


async def encode_images(
    service: Service, loaded: LoadedModel, images: ModelImages, top: int, client: str
) -> tuple[list[bytes], bool, str]:
    """Posterior and responsible components per image as a JSON object; whether the cache had them, and their key."""

    async def compute() -> bytes:
        return b"\n".join(await loaded.engine.encode(images.levels(), top=top, client=client))

    key = cache_key("encode", loaded.digest, repr(top), *images.digests())
    results, hit = await service.cache.get_or_compute(key, compute)
    return results.split(b"\n"), hit, key
