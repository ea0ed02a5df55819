"""`GET /pseudo-inputs`: the pseudo-inputs of the prior, or the images to which its components are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.errors import PseudoInputNotFound
from service.http.answers import answer_type, cached_answer, image_response
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import MAX_SEED, LayoutQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import PseudoInputList
from service.models.loaded import LoadedModel

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["pseudo-inputs"], responses=PROBLEM_RESPONSES)

GALLERY_RESPONSE = image_response(PseudoInputList)
LINK = {"schema": {"type": "string"}, "description": "The pages before and after this one (RFC 8288)."}
PAGES = {
    **GALLERY_RESPONSE,
    200: {**GALLERY_RESPONSE[200], "headers": {**GALLERY_RESPONSE[200]["headers"], "Link": LINK}},
}


class PseudoInputQuery(LayoutQuery):
    """Parameters of `GET /pseudo-inputs/{k}`."""

    view: Literal["input", "decoded"] | None = Field(
        None,
        description="`input`: the learned pseudo-inputs; `decoded`: each component's mean through the decoder, the "
        "image that the model has learned for it. If left out, the model's card decides (`pseudo_input_view`). Priors "
        "without pseudo-inputs show their components decoded in either view.",
    )
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


@router.get("/pseudo-inputs", operation_id="list_pseudo_inputs", responses=PAGES, response_class=Response)
async def gallery(request: Request, query: Annotated[GalleryQuery, Query()]) -> Response:
    """The gallery: the learned pseudo-inputs, or the prior's components decoded at their means."""
    loaded, offset = query.loaded(request), query.offset
    order = np.argsort(-loaded.weights, kind="stable") if query.sort == "weight" else np.arange(loaded.num_components)
    chosen = [int(index) for index in order[offset : offset + query.limit]]
    response = await _show(request, query, loaded, chosen, offset)
    if links := _links(request, offset, query.limit, loaded.num_components):
        response.headers["Link"] = links
    return response


@router.get("/pseudo-inputs/{k}", operation_id="get_pseudo_input", responses=GALLERY_RESPONSE, response_class=Response)
async def one(
    request: Request,
    query: Annotated[PseudoInputQuery, Query()],
    k: Annotated[int, Path(ge=0, description="Number of the pseudo-input.", openapi_examples={"one": {"value": 42}})],
) -> Response:
    """One pseudo-input, or one component of the prior decoded at its mean."""
    loaded = query.loaded(request)
    return await _show(request, query, loaded, [loaded.component(k)], offset=k)


def _links(request: Request, offset: int, limit: int, total: int) -> str:
    """Value of the header `Link` (RFC 8288): the pages before and after one that starts at `offset`, if there are any.

    The addresses are relative to that of the request, so that they are right behind any proxy.
    """
    pages: dict[str, int] = {}
    if offset > 0:
        pages |= {"first": 0, "prev": max(0, min(offset, total) - limit)}
    if offset + limit < total:
        pages |= {"next": offset + limit, "last": (total - 1 - offset) // limit * limit + offset}
    others = [(name, value) for name, value in request.query_params.items() if name != "offset"]
    return ", ".join(f'<?{urlencode([*others, ("offset", page)])}>; rel="{name}"' for name, page in pages.items())


async def _show(
    request: Request, query: PseudoInputQuery, loaded: LoadedModel, chosen: Sequence[int], offset: int
) -> Response:
    layout = query.layout(request, len(chosen))
    if not chosen and layout.format == "png":
        raise PseudoInputNotFound(f"the gallery of {loaded.reference} ends before offset {offset}")

    view = loaded.pseudo_input_view(query.view)

    async def compute() -> bytes:
        return await loaded.engine.gallery(
            chosen, view=view, offset=offset, stretch=query.stretch, layout=layout, client=client_of(request)
        )

    key = cache_key("pseudo-inputs", loaded.digest, repr((offset, chosen, view, layout, query.stretch)))
    return await cached_answer(request, loaded, service_of(request).cache, key, compute, answer_type(request, layout))
