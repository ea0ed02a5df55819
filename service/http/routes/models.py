"""`GET /models`: what is loaded, with its card."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import service_of
from service.http.routes.query import QueryRoute
from service.http.schemas import ModelList, ModelSummary
from service.models.store import LoadedModel, ModelStore, Refusal

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["models"], responses=PROBLEM_RESPONSES)

Name = Annotated[
    str,
    Path(
        description="`name`, for its newest version, or `name@version`.",
        openapi_examples={"default": {"value": "static_mnist-hvae-vampprior"}},
    ),
]


@router.get("/models")
async def models(request: Request) -> ModelList:
    """Every checkpoint of the store: those that answer, and those that were refused and why."""
    store = service_of(request).store
    return ModelList(
        default=store.default,
        loading=store.loading,
        models=[*(_summary(model, store) for model in store.models), *(_refused(item) for item in store.refusals)],
    )


@router.get("/models/{name}")
async def model(request: Request, name: Name) -> dict[str, Any]:
    """The card of a model, `name` or `name@version`: network, data, training, test metrics."""
    return service_of(request).store.resolve(name).card.to_dict()


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
        dataset=dataset if isinstance(dataset, str) else None,
        log_likelihood=log_likelihood if isinstance(log_likelihood, int | float) else None,
    )


def _refused(refusal: Refusal) -> ModelSummary:
    name, _, version = refusal.reference.partition("@")
    return ModelSummary(name=name, version=version, status="refused", reason=refusal.reason)
