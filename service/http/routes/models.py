"""`GET /models`: what is loaded, with its card."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request, Response

from service.errors import Forbidden, ReloadRefused, ReloadUnderWay
from service.http.problems import PROBLEM_RESPONSES, problem_responses
from service.http.routes.parameters import refuse_body, resolve_model, service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import CardAnswer, ModelList, ModelSummary
from service.http.validators import REVALIDATE, etag_of, not_modified
from service.models.generation import Refusal
from service.models.loaded import LoadedModel
from service.models.store import ModelStore

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["models"], responses=PROBLEM_RESPONSES)

Name = Annotated[
    str,
    Path(
        description="`name`, for its newest version, or `name@version`.",
        openapi_examples={"default": {"value": "static_mnist-hvae-vampprior"}},
    ),
]


@router.get("/models", operation_id="list_models", response_model=ModelList)
async def models(request: Request) -> Response:
    """Every checkpoint of the store: those that answer, and those that were refused and why."""
    return _conditional(request, _list(service_of(request).store).model_dump(mode="json"))


@router.post(
    "/models/reload",
    operation_id="reload_models",
    responses=problem_responses(Forbidden, ReloadRefused, ReloadUnderWay),
)
async def reload(request: Request) -> ModelList:
    """Load the checkpoints that the store has now, and move to them without a pause.

    The new ones are loaded into processes of their own and warmed up; then they take all new requests, and the old ones
    finish what they have. If a model that answers now would be refused, the old ones stay, and the answer says why.
    Needs one of the keys in `VAMP_ADMIN_KEYS`.
    """
    refuse_body(request)
    store = service_of(request).store
    await asyncio.shield(store.begin_reload())  # goes on if the client leaves
    return _list(store)


@router.get("/models/{name}", operation_id="get_model", response_model=CardAnswer)
async def model(request: Request, name: Name) -> Response:
    """The card of a model, `name` or `name@version`: network, data, training, test metrics."""
    return _conditional(request, resolve_model(request, name).card.to_dict())


def _conditional(request: Request, content: object) -> Response:
    """The content as JSON, or 304 if the client has it already."""
    body = msgspec.json.encode(content)
    etag = etag_of(body)
    return not_modified(request, etag) or Response(
        body, media_type="application/json", headers={**REVALIDATE, "ETag": etag}
    )


def _list(store: ModelStore) -> ModelList:
    models = [*(_summary(model, store) for model in store.models), *(_refused(item) for item in store.refusals)]
    return ModelList(default=store.default, loading=store.loading, models=models)


def _summary(model: LoadedModel, store: ModelStore) -> ModelSummary:
    card = model.card
    # free parts of the card, which may hold anything
    dataset, log_likelihood = card.dataset.get("name"), card.metrics.get("log_likelihood")
    return ModelSummary(
        name=card.name,
        version=card.version,
        status="ready",
        default=store.is_default(model),
        architecture=card.model.to_dict(),
        preparation=card.preparation and card.preparation.to_dict(),
        dataset=dataset if isinstance(dataset, str) else None,
        log_likelihood=log_likelihood if isinstance(log_likelihood, int | float) else None,
    )


def _refused(refusal: Refusal) -> ModelSummary:
    name, _, version = refusal.reference.partition("@")
    return ModelSummary(name=name, version=version, status="refused", reason=refusal.reason)
