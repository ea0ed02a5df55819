"""`POST /loglik`: how likely uploaded images are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.cache import cache_key
from service.engine.protocol import REFINEMENT_DRAWS
from service.errors import BadParameter, TooLarge
from service.http.answers import ANSWER_HEADERS, answer, results_json
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import BinarizeQuery, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import LogLikelihoodAnswer
from service.http.uploads import UPLOAD_BODY
from service.http.validators import etag_of

__all__ = ["router"]

DEFAULT_REFINEMENT, MOST_FOR_PRECISION = 10, 20_000
"""Steps of refinement and most samples where a precision is wanted and they are not given."""

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


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


@router.post(
    "/loglik",
    operation_id="score",
    response_model=LogLikelihoodAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
    openapi_extra=UPLOAD_BODY,
)
async def loglik(request: Request, query: Annotated[LogLikelihoodQuery, Query()]) -> Response:
    """Score images by importance sampling.

    Each image's log p(x) is the logarithm of the mean of `num_samples` importance weights p(x, z) / q(z | x), in nats,
    with its Monte Carlo standard error, and its rank among held-out images. An image's score depends on
    the image and the parameters alone.
    """
    service, loaded = service_of(request), query.loaded(request)
    images = await query.images(request)
    num_samples, seed, most = query.num_samples, query.seed, service.settings.max_num_samples
    precision = query.precision
    refine = query.refine if query.refine is not None else (0 if precision is None else DEFAULT_REFINEMENT)
    if "num_samples" not in query.model_fields_set:
        num_samples = min(num_samples if precision is None else MOST_FOR_PRECISION, most)
    if num_samples > most:
        raise BadParameter(f"num_samples is {num_samples}; this service takes at most {most}")

    rows = len(images) * (num_samples + refine * REFINEMENT_DRAWS)
    if rows > service.settings.queued_rows:
        raise TooLarge(
            f"{len(images)} images with {num_samples} samples each are more than this service queues, "
            f"{service.settings.queued_rows} samples; send fewer at a time"
        )

    settings = repr((num_samples, seed, refine, precision))
    keys = [cache_key("loglik", loaded.digest, settings, digest) for digest in images.digests()]
    scores = await asyncio.gather(*map(service.cache.find, keys))
    missing = [index for index, score in enumerate(scores) if score is None]
    if missing:
        levels = images.levels()
        with loaded.engine.admit_scores(len(missing), num_samples, client_of(request), refine) as room:

            async def score(index: int) -> None:
                def compute() -> Awaitable[bytes]:
                    return loaded.engine.score(
                        room, levels[index], num_samples=num_samples, seed=seed, refine=refine, precision=precision
                    )

                scores[index] = await service.cache.compute(keys[index], compute)

            await _all([score(index) for index in missing])
    results = [score for score in scores if score is not None]
    body = results_json(loaded, images.names, results, seed=seed, num_samples=num_samples)
    return answer(body, "application/json", loaded, seed=seed, hit=not missing, etag=etag_of(*keys, *images.names))


async def _all(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all to their end, or cancel the rest and raise the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
