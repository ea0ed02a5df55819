"""`POST /sample`: images from the prior, or from the prior component of one pseudo-input."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.answers import IMAGE_RESPONSE, answer
from service.cache import cache_key
from service.jobs import SampleJob
from service.problems import PROBLEM_RESPONSES
from service.routes.parameters import MAX_SEED, LayoutParameter, Mode, Model, ServiceParameter, random_seed

__all__ = ["router"]

router = APIRouter(tags=["sample"], responses=PROBLEM_RESPONSES)


@router.post("/sample", responses=IMAGE_RESPONSE, response_class=Response)
async def sample(
    service: ServiceParameter,
    loaded: Model,
    layout: LayoutParameter,
    pseudo_input: Annotated[
        int | None,
        Query(ge=0, description="Draw from this pseudo-input's component; from the whole prior if left out."),
    ] = None,
    n: Annotated[int, Query(ge=1, le=256, description="How many images.")] = 1,
    seed: Annotated[
        int | None,
        Query(ge=0, le=MAX_SEED, description="The same seed gives the same images; a random one if left out."),
    ] = None,
    mode: Mode = "mean",
    temperature: Annotated[
        float, Query(ge=0, le=10, description="Factor on the standard deviation of the latents; 0 gives their mean.")
    ] = 1.0,
) -> Response:
    """Draw images.

    The latents are drawn from the prior (for two layers z2 from the chosen component and z1 from p(z1 | z2)) and
    decoded. The first images of a seed are the same for every `n`.
    """
    component = None if pseudo_input is None else loaded.component(pseudo_input)
    used_seed = random_seed() if seed is None else seed

    async def compute() -> bytes:
        job = SampleJob(
            loaded.runtime,
            n=n,
            seed=used_seed,
            component=component,
            temperature=temperature,
            draw=mode == "draw",
        )
        return await loaded.engine.run(job, lambda images: layout.render(images, loaded, used_seed))

    if seed is None:  # nobody will ask for this one again
        return answer(await compute(), layout.media_type, loaded, seed=used_seed)
    key = cache_key("sample", loaded.digest, repr((component, n, seed, mode, temperature, layout)))
    body, hit = await service.cache.get_or_compute(key, compute)
    return answer(body, layout.media_type, loaded, seed=seed, hit=hit)
