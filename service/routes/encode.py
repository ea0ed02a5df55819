"""`POST /encode`: where uploaded images lie in latent space."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from service.answers import ANSWER_HEADERS, answer, model_json, rounded
from service.cache import cache_key
from service.jobs import EncodeJob, Encoding
from service.problems import PROBLEM_RESPONSES
from service.routes.parameters import Images, Model, ServiceParameter
from service.schemas import EncodeAnswer
from service.uploads import UPLOAD_BODY

__all__ = ["router"]

router = APIRouter(tags=["images"], responses=PROBLEM_RESPONSES)


@router.post(
    "/encode", response_model=EncodeAnswer, responses={200: {"headers": ANSWER_HEADERS}}, openapi_extra=UPLOAD_BODY
)
async def encode(
    service: ServiceParameter,
    loaded: Model,
    images: Images,
    top: Annotated[int, Query(ge=1, le=100, description="How many of the most responsible components to name.")] = 5,
) -> Response:
    """Posterior means and standard deviations of every stochastic layer, and the prior components nearest the image."""

    async def compute() -> bytes:
        def render(encoding: Encoding) -> bytes:
            results = [{"file": name, **describe(encoding, row, top)} for row, name in enumerate(images.names)]
            return model_json(EncodeAnswer, loaded, results=results)

        return await loaded.engine.run(EncodeJob(loaded.runtime.model, images.gray), render)

    key = cache_key("encode", loaded.digest, repr((top, images.names)), *images.digests())
    body, hit = await service.cache.get_or_compute(key, compute)
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
