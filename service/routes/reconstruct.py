"""`POST /reconstruct`: uploaded images, encoded and decoded."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.answers import IMAGE_RESPONSE, answer
from service.cache import cache_key
from service.jobs import ReconstructJob
from service.problems import PROBLEM_RESPONSES
from service.routes.parameters import Images, LayoutParameter, Mode, Model, Seed, ServiceParameter
from service.uploads import UPLOAD_BODY

__all__ = ["router"]

router = APIRouter(tags=["images"], responses=PROBLEM_RESPONSES)


@router.post("/reconstruct", responses=IMAGE_RESPONSE, response_class=Response, openapi_extra=UPLOAD_BODY)
async def reconstruct(
    service: ServiceParameter,
    loaded: Model,
    layout: LayoutParameter,
    images: Images,
    mode: Mode = "mean",
    seed: Seed = 0,
) -> Response:
    """Encode and decode images.

    `mean` passes the posterior means through the decoder; `draw` draws the latents from the posterior and the pixels
    from the decoder, with `seed`. Binary models see the upload thresholded at one half, gray ones as it is.
    """

    async def compute() -> bytes:
        job = ReconstructJob(loaded.runtime.model, images.gray, seed=seed, draw=mode == "draw")
        return await loaded.engine.run(job, lambda images: layout.render(images, loaded, seed))

    key = cache_key("reconstruct", loaded.digest, repr((seed, mode, layout)), *images.digests())
    body, hit = await service.cache.get_or_compute(key, compute)
    return answer(body, layout.media_type, loaded, seed=seed, hit=hit)
