"""`GET /pseudo-inputs`: what the prior's components stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from numpy.typing import NDArray
from pydantic import Field

from service.http.answers import Layout, answer, image_response, model_json, rounded
from service.cache import cache_key
from service.errors import PseudoInputNotFound
from service.jobs import DecodeJob
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import LayoutQuery, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import PseudoInputList
from service.models.store import LoadedModel

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

    offset: int = Field(0, ge=0, description="Leave out this many first.")
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
        images = await _images(loaded, chosen)
        if query.stretch and layout.format == "png":
            images = images / np.maximum(images.max(axis=(1, 2, 3), keepdims=True), 1e-6)
        return await loaded.engine.render(lambda: _render(loaded, layout, chosen, offset, images))

    key = cache_key("pseudo-inputs", loaded.digest, repr((offset, chosen, layout, query.stretch)))
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, layout.media_type, loaded, hit=hit)


async def _images(loaded: LoadedModel, chosen: Sequence[int]) -> NDArray[np.float32]:
    if not chosen:
        return np.zeros((0, *loaded.card.model.image_shape), dtype=np.float32)
    if loaded.pseudo_inputs is None:
        return await loaded.engine.run(DecodeJob(loaded.runtime.model, chosen))
    return loaded.pseudo_inputs[list(chosen)]


def _render(
    loaded: LoadedModel, layout: Layout, chosen: Sequence[int], offset: int, images: NDArray[np.float32]
) -> bytes:
    if layout.format != "json":
        return layout.render(images, loaded)
    return model_json(
        PseudoInputList,
        loaded,
        total=loaded.num_components,
        offset=offset,
        kind="decoded components" if loaded.pseudo_inputs is None else "pseudo-inputs",
        pseudo_inputs=[
            {"index": index, "weight": round(float(loaded.weights[index]), 8), "image": rounded(image)}
            for index, image in zip(chosen, images, strict=True)
        ],
    )
