"""`POST /loglik`: how likely uploaded images are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import astuple, dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.engine.protocol import REFINEMENT_DRAWS
from service.engine.queue import Request as Room
from service.errors import BadParameter, TooLarge
from service.http.answers import ANSWER_HEADERS, answer, results_json
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import BinarizeQuery, Service, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import LogLikelihoodAnswer
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
from service.settings import Settings

__all__ = ["LogLikelihoodQuery", "Scoring", "router", "score_images"]

DEFAULT_REFINEMENT, MOST_FOR_PRECISION = 10, 20_000
"""Steps of refinement and most samples where a precision is wanted and they are not given."""

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


@dataclass(frozen=True)
class Scoring:
    """How images are scored.

    num_samples: importance samples per image, or the most of them with a precision
    seed:        of the samples
    refine:      steps that fit the proposal distribution to each image
    precision:   standard error in nats at which to stop
    """

    num_samples: int
    seed: int
    refine: int
    precision: float | None

    @property
    def rows(self) -> int:
        """Network rows per image."""
        return self.num_samples + self.refine * REFINEMENT_DRAWS

    def key(self, loaded: LoadedModel, digest: str) -> str:
        """Cache key of the score of an image with this digest."""
        return cache_key("loglik", loaded.digest, repr(astuple(self)), digest)

    def score(
        self, loaded: LoadedModel, room: Room, levels: bytes, report: Callable[[bytes], None] | None = None
    ) -> Awaitable[bytes]:
        """The score of an image, a JSON object; `report` is told estimates from fewer samples before."""
        return loaded.engine.score(
            room,
            levels,
            num_samples=self.num_samples,
            seed=self.seed,
            refine=self.refine,
            precision=self.precision,
            report=report,
        )


class LogLikelihoodQuery(BinarizeQuery):
    """Parameters of `POST /loglik`."""

    num_samples: int = Field(
        5000,
        ge=1,
        description="Importance samples per image; the paper takes 5,000. If left out, 5,000 or the most that this "
        "service takes, whichever is less. With `precision` it is the most that are drawn, and 20,000 if left out.",
    )
    refine: int | None = Field(
        None,
        ge=0,
        le=200,
        description="Steps that fit the proposal distribution to each image first: after 10 steps, 1,000 samples are "
        "about as accurate as 5,000. If left out, 0, or 10 with `precision`.",
    )
    precision: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Draw samples until the standard error is at most this number of nats and can be believed "
        "(`reliability`); `converged` says whether that was reached.",
    )

    progress: bool = Field(
        False,
        description="In a stream, tell the estimate from 512 samples, 1,024 and so on as well, until all are drawn. It "
        "has no effect on an answer that is no stream.",
    )

    def scoring(self, settings: Settings) -> Scoring:
        """What the parameters ask for, with defaults. Raises `BadParameter` for more samples than are allowed."""
        num_samples, most, precision = self.num_samples, settings.max_num_samples, self.precision
        refine = self.refine if self.refine is not None else (0 if precision is None else DEFAULT_REFINEMENT)
        if "num_samples" not in self.model_fields_set:
            num_samples = min(num_samples if precision is None else MOST_FOR_PRECISION, most)
        if num_samples > most:
            raise BadParameter(f"num_samples is {num_samples}; this service takes at most {most}")
        return Scoring(num_samples, self.seed, refine, precision)


@router.post(
    "/loglik",
    operation_id="score",
    response_model=LogLikelihoodAnswer,
    responses={200: {"headers": ANSWER_HEADERS, "content": STREAM_CONTENT}},
    openapi_extra=UPLOAD_BODY,
)
async def loglik(request: Request, query: Annotated[LogLikelihoodQuery, Query()]) -> Response:
    """Score images by importance sampling.

    Each image's log p(x) is the logarithm of the mean of `num_samples` importance weights p(x, z) / q(z | x), in nats,
    with its Monte Carlo standard error, and its rank among held-out images. An image's score depends on
    the image and the parameters alone. `Accept: application/x-ndjson` or `text/event-stream` gives each score when it
    is known, with the fields of `results` and the `index` of the image.
    """
    format_ = stream_format(request)
    if format_ is not None:
        return await _stream(request, query, format_)
    service, loaded = service_of(request), query.loaded(request)
    images = await query.images(request)
    scoring = query.scoring(service.settings)
    results, hit, key = await score_images(service, loaded, images, scoring, client_of(request))
    body = results_json(loaded, images.names, results, seed=scoring.seed, num_samples=scoring.num_samples)
    return answer(body, "application/json", loaded, seed=scoring.seed, hit=hit, etag=etag_of(key, *images.names))


async def _stream(request: Request, query: LogLikelihoodQuery, format_: StreamFormat) -> Response:
    """A score per image when it is known, in the order in which they are."""
    service, loaded, scoring = service_of(request), query.loaded(request), query.scoring(service_of(request).settings)
    if scoring.rows > service.settings.queued_rows:
        raise TooLarge(
            f"{scoring.rows} samples for an image are more than this service queues, {service.settings.queued_rows}"
        )
    room = loaded.engine.open_scores(client_of(request))
    windows = await begin(query.windows(request, WINDOW))
    request.scope["state"]["exchange"].lift_deadline()

    async def jobs() -> AsyncGenerator[Job]:
        index = 0
        async with aclosing(windows):
            async for images in windows:
                for name, levels, digest in zip(images.names, images.levels(), images.digests(), strict=True):
                    yield Job(1, partial(score, index, name, levels, scoring.key(loaded, digest)))
                    index += 1

    async def score(index: int, name: str, levels: bytes, key: str, tell: Callable[[Event], None]) -> None:
        def report(estimate: bytes) -> None:
            tell(Event.of_image("progress", index, name, estimate))

        async def compute() -> bytes:
            loaded.engine.check_room(scoring.rows)
            return await scoring.score(loaded, room, levels, report if query.progress else None)

        result, _ = await service.cache.get_or_compute(key, compute)
        tell(Event.of_image("score", index, name, result))

    async def events() -> AsyncGenerator[Event]:
        count = 0
        async with aclosing(run_jobs(jobs(), seconds=service.settings.deadline_seconds)) as running:
            async for event in running:
                count += event.name == "score"
                yield event
        names = {"model": loaded.card.name, "model_version": loaded.card.version}
        yield Event.of("done", **names, seed=scoring.seed, num_samples=scoring.num_samples, num_images=count)

    return EventStream(events(), format_, {**loaded.headers, "X-Seed": str(scoring.seed)})


async def score_images(
    service: Service, loaded: LoadedModel, images: ModelImages, scoring: Scoring, client: str
) -> tuple[list[bytes], bool, str]:
    """A score per image as a JSON object; whether the cache had all of them, and their keys, joined.

    Raises `TooLarge` for more samples than the service queues, and `Overloaded` if there is no room for them now.
    """
    rows = len(images) * scoring.rows
    if rows > service.settings.queued_rows:
        raise TooLarge(
            f"{len(images)} images with {scoring.num_samples} samples each are more than this service queues, "
            f"{service.settings.queued_rows} samples; send fewer at a time"
        )
    keys = [scoring.key(loaded, digest) for digest in images.digests()]
    scores = await asyncio.gather(*map(service.cache.find, keys))
    missing = [index for index, score in enumerate(scores) if score is None]
    if missing:
        levels = images.levels()
        with loaded.engine.admit_scores(len(missing), scoring.num_samples, client, scoring.refine) as room:

            async def score(index: int) -> None:
                compute = partial(scoring.score, loaded, room, levels[index])
                scores[index] = await service.cache.compute(keys[index], compute)

            await _all([score(index) for index in missing])
    return [score for score in scores if score is not None], not missing, "".join(keys)


async def _all(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all to their end, or cancel the rest and raise the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
