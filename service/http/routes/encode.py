"""`POST /encode`: where uploaded images lie in latent space."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.http.answers import ANSWER_HEADERS, answer, model_json, rounded
from service.cache import cache_key
from service.jobs import EncodeJob, Encoding
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import UploadQuery, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import EncodeAnswer
from service.http.uploads import UPLOAD_BODY

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


class EncodeQuery(UploadQuery):
    """Parameters of `POST /encode`."""

    top: int = Field(5, ge=1, le=100, description="How many of the most responsible components to name.")


@router.post(
    "/encode", response_model=EncodeAnswer, responses={200: {"headers": ANSWER_HEADERS}}, openapi_extra=UPLOAD_BODY
)
async def encode(request: Request, query: Annotated[EncodeQuery, Query()]) -> Response:
    """Posterior means and standard deviations of every stochastic layer, and the prior components nearest the image."""
    loaded, images = query.loaded(request), await query.images(request)

    async def compute() -> bytes:
        def render(encoding: Encoding) -> bytes:
            results = [{"file": name, **describe(encoding, row, query.top)} for row, name in enumerate(images.names)]
            return model_json(EncodeAnswer, loaded, results=results)

        return await loaded.engine.run(EncodeJob(loaded.runtime.model, images.gray), render)

    key = cache_key("encode", loaded.digest, repr((query.top, images.names)), *images.digests())
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, "application/json", loaded, hit=hit)


def describe(encoding: Encoding, row: int, top: int) -> dict[str, Any]:
    """One image's `EncodedImage`, without its name."""
    responsibilities = encoding.responsibilities[row]
    order = np.argsort(-responsibilities, kind="stable")[:top]
    return {
        "posterior": {
            layer: {"mean": rounded(encoding.mean[layer][row]), "std": rounded(encoding.std[layer][row])}
            for layer in encoding.mean
        },
        "components": [
            {"index": int(index), "probability": round(float(responsibilities[index]), 6)} for index in order
        ],
    }
