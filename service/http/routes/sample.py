"""`POST /sample`: images from the prior, or from the prior component of one pseudo-input."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.engine.protocol import Layout
from service.http.answers import IMAGE_RESPONSE, answer, answer_type
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import (
    MAX_SEED,
    LayoutQuery,
    Mode,
    Service,
    client_of,
    random_seed,
    refuse_body,
    service_of,
)
from service.http.routes.query import QueryRoute
from service.http.validators import etag_of
from service.models.loaded import LoadedModel

__all__ = ["SampleQuery", "draw_images", "router"]

router = APIRouter(route_class=QueryRoute, tags=["sample"], responses=PROBLEM_RESPONSES)


class SampleQuery(LayoutQuery):
    """Parameters of `POST /sample`."""

    pseudo_input: int | None = Field(
        None, ge=0, description="Draw from this pseudo-input's component; from the whole prior if left out."
    )
    n: int = Field(1, ge=1, le=256, description="How many images.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="The same seed gives the same images; a random one if left out."
    )
    mode: Mode = "mean"
    temperature: float = Field(
        1.0, ge=0, le=10, description="Factor on the standard deviation of the latents; 0 gives their mean."
    )


@router.post("/sample", operation_id="sample", responses=IMAGE_RESPONSE, response_class=Response)
async def sample(request: Request, query: Annotated[SampleQuery, Query()]) -> Response:
    """Draw images.

    The latents are drawn from the prior (for two layers z2 from the chosen component and z1 from p(z1 | z2)) and
    decoded. The first images of a seed are the same for every `n`.
    """
    refuse_body(request)
    loaded, layout = query.loaded(request), query.layout(request, query.n)
    seed = random_seed() if query.seed is None else query.seed
    body, hit, key = await draw_images(service_of(request), loaded, query, seed, layout, client_of(request))
    return answer(body, answer_type(request, layout), loaded, seed=seed, hit=hit, etag=etag_of(key) if key else "")


async def draw_images(
    service: Service, loaded: LoadedModel, query: SampleQuery, seed: int, layout: Layout, client: str
) -> tuple[bytes, bool | None, str]:
    """Samples as a body; whether the cache had them, and their key: None and empty if the query names no seed."""
    component = None if query.pseudo_input is None else loaded.component_of(query.pseudo_input)

    async def compute() -> bytes:
        return await loaded.engine.sample(
            n=query.n,
            seed=seed,
            component=component,
            temperature=query.temperature,
            draw=query.mode == "draw",
            layout=layout,
            client=client,
        )

    if query.seed is None:  # nobody will ask for this one again
        return await compute(), None, ""
    key = cache_key("sample", loaded.digest, repr((component, query.n, seed, query.mode, query.temperature, layout)))
    return *await service.cache.get_or_compute(key, compute), key
