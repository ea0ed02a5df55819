"""`POST /loglik`: how likely uploaded images are."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.http.answers import ANSWER_HEADERS, answer, model_json
from service.cache import cache_key
from service.errors import BadParameter, TooLarge
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import Seed, UploadQuery, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import LogLikelihoodAnswer
from service.scoring import LogLikelihoodJob
from service.models.store import LoadedModel
from service.http.uploads import UPLOAD_BODY
from vampprior.importance import LogLikelihood

__all__ = ["router"]

MIN_EFFECTIVE = 2.0
"""Effective samples below which an estimate hangs on a single one, and its error cannot be told."""
HANGS_ON_ONE = " The estimate hangs on a single sample, and is too low rather than too high: ask for more."

router = APIRouter(route_class=QueryRoute, tags=["images"], responses=PROBLEM_RESPONSES)


class LogLikelihoodQuery(UploadQuery):
    """Parameters of `POST /loglik`."""

    num_samples: int = Field(
        5000,
        ge=1,
        description="Importance samples per image; the paper takes 5,000. If left out, 5,000 or the most that this "
        "service takes, whichever is less.",
    )
    seed: Seed = 0


@router.post(
    "/loglik",
    response_model=LogLikelihoodAnswer,
    responses={200: {"headers": ANSWER_HEADERS}},
    openapi_extra=UPLOAD_BODY,
)
async def loglik(request: Request, query: Annotated[LogLikelihoodQuery, Query()]) -> Response:
    """Score images by importance sampling.

    Each image's log p(x) is the logarithm of the mean of `num_samples` importance weights p(x, z) / q(z | x), in nats,
    with its Monte Carlo standard error, and its rank among the model's own test images. An image's score depends on
    the image, `num_samples` and `seed` alone.
    """
    service, loaded = service_of(request), query.loaded(request)
    images = await query.images(request)
    num_samples, seed, most = query.num_samples, query.seed, service.settings.max_num_samples
    if "num_samples" not in query.model_fields_set:
        num_samples = min(num_samples, most)
    if num_samples > most:
        raise BadParameter(f"num_samples is {num_samples}; this service takes at most {most}")

    if len(images) > service.settings.queue_length:
        most = service.settings.queue_length
        raise TooLarge(f"{len(images)} images are more than this service queues, {most}; send fewer at a time")
    if len(images) * num_samples > service.settings.queued_rows:
        raise TooLarge(
            f"{len(images)} images with {num_samples} samples each are more than this service queues, "
            f"{service.settings.queued_rows} samples; send fewer at a time"
        )

    async def score(index: int) -> tuple[bytes, bool]:
        async def compute() -> bytes:
            job = LogLikelihoodJob(loaded.runtime.model, images.gray[index], num_samples=num_samples, seed=seed)
            return await loaded.engine.run(job, lambda score: _encode(score, loaded), owner=request)

        key = cache_key("loglik", loaded.digest, repr((num_samples, seed)), digests[index])
        return await service.cache.get_or_compute(key, compute)

    digests = images.digests()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(score(index)) for index in range(len(images))]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    scores = [task.result() for task in tasks]
    results = [{"file": name, **json.loads(body)} for name, (body, _) in zip(images.names, scores, strict=True)]
    body = model_json(LogLikelihoodAnswer, loaded, seed=seed, num_samples=num_samples, results=results)
    return answer(body, "application/json", loaded, seed=seed, hit=all(hit for _, hit in scores))


def _encode(score: LogLikelihood, loaded: LoadedModel) -> bytes:
    return json.dumps(describe_score(score, loaded), allow_nan=False).encode()


def describe_score(score: LogLikelihood, loaded: LoadedModel) -> dict[str, Any]:
    """One image's `ScoredImage`, without its name."""
    value, error, effective = (
        number.item() for number in (score.value, score.standard_error, score.effective_sample_size)
    )
    percentile = loaded.card.percentile(value)
    return {
        "log_likelihood": round(value, 4),
        "standard_error": round(error, 4) if effective >= MIN_EFFECTIVE and math.isfinite(error) else None,
        "bits_per_dim": round(-value / (loaded.card.model.num_pixels * math.log(2.0)), 5),
        "elbo": round(score.elbo.item(), 4),
        "effective_sample_size": round(effective, 1),
        "pareto_k": round(score.pareto_k.item(), 3) if score.pareto_k.isfinite() else None,
        "reliability": score.reliability[0],
        "percentile": None if percentile is None else round(percentile, 1),
        "summary": _in_words(percentile) + ("" if effective >= MIN_EFFECTIVE else HANGS_ON_ONE),
    }


def _in_words(percentile: float | None) -> str:
    if percentile is None:
        return "This checkpoint was never evaluated, so there is nothing to compare with."
    if percentile <= 0.0:
        return "Less likely than every one of the model's test images."
    if percentile >= 100.0:
        return "More likely than every one of the model's test images."
    return f"More likely than {percentile:.0f} % of the model's test images."
