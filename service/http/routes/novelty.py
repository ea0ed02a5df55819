"""`POST /novelty`: whether uploaded images are new to the model, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.errors import BadParameter
from service.http.answers import ANSWER_HEADERS, IMAGE_RESPONSE, answer, answer_type, results_json
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import BinarizeQuery, LayoutQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import NoveltyAnswer
from service.http.uploads import UPLOAD_BODY
from service.http.validators import etag_of
from vampprior.novelty import NUM_SAMPLES

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


class NoveltyQuery(BinarizeQuery):
    """Parameters of `POST /novelty`."""

    calibration: str = Field(
        "default", max_length=100, description="The known images to compare with: `default`, the validation images."
    )
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of known images that may be called new. If left out, 0.01, or with fewer than 99 images in "
        "the calibration the smallest rate that they allow.",
    )
    fdr: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decide over all images of the request together, so that on average at most this share of those "
        "called new is known (Benjamini-Hochberg); in place of `false_alarm_rate`.",
    )


class HeatMapQuery(LayoutQuery, BinarizeQuery):
    """Parameters of `POST /novelty/heatmap`."""

    view: Literal["overlay", "heat", "prototypes"] = Field(
        "overlay",
        description="`overlay`: the heat map in red over the image; `heat`: the map alone; `prototypes`: what the "
        "closest prototypes show. JSON and NPY give the map without the image for `overlay`.",
    )


@router.post(
    "/novelty",
    operation_id="novelty",
    response_model=NoveltyAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
    openapi_extra=UPLOAD_BODY,
)
async def novelty(request: Request, query: Annotated[NoveltyQuery, Query()]) -> Response:
    """Decide whether images are new to the model.

    The p-value is the share of calibration images, which the model was not trained on, that look at least as unusual;
    an image is called new if it is at most `false_alarm_rate`. The answer names the statistics behind it, each with a
    p-value of its own, the three prototypes that explain the image best, and says it in a sentence.
    """
    loaded = query.loaded(request)
    size = loaded.calibration_size(query.calibration)
    rate, smallest = query.false_alarm_rate, 1.0 / (size + 1.0)
    if rate is not None and query.fdr is not None:
        raise BadParameter("give either false_alarm_rate or fdr, not both")
    if rate is not None and rate < smallest:
        raise BadParameter(
            f"false_alarm_rate is {rate:g}, but {size:,} calibration images can give no p-value below {smallest:.2g}"
        )
    images = await query.images(request)

    async def compute() -> bytes:
        results = await loaded.engine.decide(
            images.levels(),
            calibration=query.calibration,
            false_alarm_rate=rate,
            fdr=query.fdr,
            num_samples=NUM_SAMPLES,
            seed=query.seed,
            client=client_of(request),
        )
        return b"\n".join(results)

    settings = repr((query.calibration, rate, query.fdr, query.seed))
    key = cache_key("novelty", loaded.digest, settings, *images.digests())
    results, hit = await service_of(request).cache.get_or_compute(key, compute)
    fields = {
        "seed": query.seed,
        "num_samples": NUM_SAMPLES,
        "calibration": query.calibration,
        "num_calibration": size,
        "false_alarm_rate": None if query.fdr is not None else rate if rate is not None else max(0.01, smallest),
        "fdr": query.fdr,
    }
    body = results_json(loaded, images.names, results.split(b"\n"), **fields)
    return answer(body, "application/json", loaded, seed=query.seed, hit=hit, etag=etag_of(key, *images.names))


@router.post(
    "/novelty/heatmap",
    operation_id="novelty_heatmap",
    responses=IMAGE_RESPONSE,
    response_class=Response,
    openapi_extra=UPLOAD_BODY,
)
async def heatmap(request: Request, query: Annotated[HeatMapQuery, Query()]) -> Response:
    """Show where images differ from the prototypes that are closest to them.

    Each prior component's mean image is weighted by how well it explains the upload; the map is the difference from
    their weighted mean.
    """
    loaded = query.loaded(request)
    if loaded.engine.autoregressive and not loaded.has_pseudo_inputs:
        raise BadParameter(f"{loaded.reference} has no prototypes: its pixels have no mean, its prior no pseudo-inputs")
    images = await query.images(request)
    layout = query.layout(request, len(images))

    async def compute() -> bytes:
        return await loaded.engine.locate(images.levels(), view=query.view, layout=layout, client=client_of(request))

    key = cache_key("heatmap", loaded.digest, repr((query.view, layout)), *images.digests())
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, answer_type(request, layout), loaded, hit=hit, etag=etag_of(key))
