"""`POST /novelty`: whether uploaded images are new to the model, and where."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.errors import BadParameter
from service.http.answers import ANSWER_HEADERS, IMAGE_RESPONSE, answer, answer_type, results_json
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import BinarizeQuery, LayoutQuery, Service, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import NoveltyAnswer
from service.http.streams import (
    STREAM_CONTENT,
    WINDOW,
    Event,
    EventStream,
    Job,
    StreamFormat,
    begin,
    run_jobs,
    stream_format,
)
from service.http.uploads import UPLOAD_BODY, ModelImages
from service.http.validators import etag_of
from service.models.loaded import LoadedModel
from vampprior.novelty import NUM_SAMPLES, benjamini_hochberg

__all__ = ["NoveltyQuery", "decide_images", "router"]

STREAM_BATCH = 16
"""Images of a stream that are decided together: a unit of the engine."""
DECIDED = {"novel", "summary"}
"""Fields of a result that depend on the decision."""

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

    def check(self, loaded: LoadedModel) -> None:
        """Raise `CalibrationNotFound`, or `BadParameter` for a rate that the calibration does not allow."""
        rate, size = self.false_alarm_rate, loaded.calibration_size(self.calibration)
        if rate is not None and self.fdr is not None:
            raise BadParameter("give either false_alarm_rate or fdr, not both")
        if rate is not None and rate < 1.0 / (size + 1.0):
            raise BadParameter(
                f"false_alarm_rate is {rate:g}, but {size:,} calibration images can give no p-value below "
                f"{1.0 / (size + 1.0):.2g}; give a larger rate, or leave it out to use the smallest possible one"
            )

    def described(self, loaded: LoadedModel) -> dict[str, Any]:
        """What every answer says about how it was decided."""
        size, rate = loaded.calibration_size(self.calibration), self.false_alarm_rate
        if self.fdr is None and rate is None:
            rate = max(0.01, 1.0 / (size + 1.0))
        return {
            "seed": self.seed,
            "num_samples": NUM_SAMPLES,
            "calibration": self.calibration,
            "num_calibration": size,
            "false_alarm_rate": rate,
            "fdr": self.fdr,
        }


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
    responses={200: {"headers": ANSWER_HEADERS, "content": STREAM_CONTENT}},
    openapi_extra=UPLOAD_BODY,
)
async def novelty(request: Request, query: Annotated[NoveltyQuery, Query()]) -> Response:
    """Decide whether images are new to the model.

    The p-value is the share of calibration images, which the model was not trained on, that look at least as unusual;
    an image is called new if it is at most `false_alarm_rate`. The answer names the statistics behind it, each with a
    p-value of its own, the three prototypes that explain the image best, and says it in a sentence.
    `Accept: application/x-ndjson` or `text/event-stream` gives each decision when it is known, with the fields of
    `results` and the `index` of the image; with `fdr` the decisions come at the end.
    """
    loaded = query.loaded(request)
    query.check(loaded)
    format_ = stream_format(request)
    if format_ is not None:
        return await _stream(request, query, format_)
    images = await query.images(request)
    results, hit, key = await decide_images(service_of(request), loaded, images, query, client_of(request))
    body = results_json(loaded, images.names, results, **query.described(loaded))
    return answer(body, "application/json", loaded, seed=query.seed, hit=hit, etag=etag_of(key, *images.names))


async def _stream(request: Request, query: NoveltyQuery, format_: StreamFormat) -> Response:
    """A decision per image when it is known, in the order in which they are."""
    service, loaded, client = service_of(request), query.loaded(request), client_of(request)
    windows = await begin(query.windows(request, WINDOW))
    request.scope["state"]["exchange"].lift_deadline()
    alone = query.model_copy(update={"fdr": None})
    p_values: dict[int, float] = {}
    smallest = 1.0 / (loaded.calibration_size(query.calibration) + 1.0)

    async def jobs() -> AsyncGenerator[Job]:
        first = 0
        async with aclosing(windows):
            async for images in windows:
                for start in range(0, len(images), STREAM_BATCH):
                    part = images.part(start, start + STREAM_BATCH)
                    yield Job(len(part), partial(decide, first + start, part))
                first += len(images)

    async def decide(first: int, images: ModelImages, tell: Callable[[Event], None]) -> None:
        results, _, _ = await decide_images(service, loaded, images, alone, client, bulk=True)
        for index, (name, result) in enumerate(zip(images.names, results, strict=True), first):
            tell(Event.of_image("score", index, name, result if query.fdr is None else undecided(index, result)))

    def undecided(index: int, result: bytes) -> bytes:
        """The result without the decision, which is made over all images together."""
        fields = {name: value for name, value in msgspec.json.decode(result).items() if name not in DECIDED}
        p_values[index] = round(fields["p_value"] / smallest) * smallest  # the answer has six decimals
        return msgspec.json.encode(fields)

    async def events() -> AsyncGenerator[Event]:
        count = 0
        async with aclosing(run_jobs(jobs(), seconds=service.settings.deadline_seconds)) as running:
            async for event in running:
                count += 1
                yield event
        names = {"model": loaded.card.name, "model_version": loaded.card.version}
        done = {**names, **query.described(loaded), "num_images": count}
        if query.fdr is not None:
            novel = benjamini_hochberg(np.array([p_values[index] for index in range(count)]), query.fdr)
            done["novel"] = np.flatnonzero(novel).tolist()
        yield Event.of("done", **done)

    return EventStream(events(), format_, {**loaded.headers, "X-Seed": str(query.seed)})


async def decide_images(
    service: Service, loaded: LoadedModel, images: ModelImages, query: NoveltyQuery, client: str, *, bulk: bool = False
) -> tuple[list[bytes], bool, str]:
    """A decision per image as a JSON object; whether the cache had them, and their key.

    bulk: compute in the lane of heavy work, however few the images are
    """

    async def compute() -> bytes:
        results = await loaded.engine.decide(
            images.levels(),
            calibration=query.calibration,
            false_alarm_rate=query.false_alarm_rate,
            fdr=query.fdr,
            num_samples=NUM_SAMPLES,
            seed=query.seed,
            client=client,
            bulk=bulk,
        )
        return b"\n".join(results)

    settings = repr((query.calibration, query.false_alarm_rate, query.fdr, query.seed))
    key = cache_key("novelty", loaded.digest, settings, *images.digests())
    results, hit = await service.cache.get_or_compute(key, compute)
    return results.split(b"\n"), hit, key


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
