"""Parameters and objects that several resources share."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from fastapi import Depends, Query, Request

from service.answers import ImageFormat, Layout, choose_format
from service.cache import Cache
from service.metrics import Metrics
from service.settings import Settings
from service.store import LoadedModel, ModelStore
from service.uploads import ModelImages, read_images

__all__ = [
    "MAX_SEED",
    "Images",
    "LayoutParameter",
    "Mode",
    "Model",
    "Seed",
    "Service",
    "ServiceParameter",
    "random_seed",
]

MAX_SEED = 2**53 - 1  # the largest whole number that every JSON reader keeps exactly


@dataclass(frozen=True)
class Service:
    """What the routes work with; the application keeps one in `app.state.service`."""

    settings: Settings
    metrics: Metrics
    store: ModelStore
    cache: Cache


# `async`, though they wait for nothing: FastAPI would send them through a thread, which costs as much as all the rest


async def _service(request: Request) -> Service:
    return cast("Service", request.app.state.service)


ServiceParameter = Annotated[Service, Depends(_service)]


async def _model(
    request: Request,
    model: Annotated[
        str | None,
        Query(description="The model that answers, `name` or `name@version`; the service's default if left out."),
    ] = None,
) -> LoadedModel:
    service = await _service(request)  # not a dependency, each of which FastAPI takes long to resolve
    return service.store.resolve(model)


Model = Annotated[LoadedModel, Depends(_model)]


async def _layout(
    request: Request,
    format: Annotated[  # noqa: A002
        ImageFormat | None, Query(description="`png`, `json` or `npy`; wins over the `Accept` header.")
    ] = None,
    columns: Annotated[int, Query(ge=1, le=64, description="Images in a row of a contact sheet.")] = 10,
    scale: Annotated[int, Query(ge=1, le=16, description="Enlarges a PNG by whole pixels.")] = 1,
) -> Layout:
    return Layout(choose_format(request, format), columns, scale)


LayoutParameter = Annotated[Layout, Depends(_layout)]

Seed = Annotated[int, Query(ge=0, le=MAX_SEED, description="The same seed gives the same answer.")]

Mode = Annotated[
    Literal["mean", "draw"],
    Query(
        description="`mean`: the expected image; `draw`: pixels drawn from p(x | z). "
        "A model with a PixelCNN decoder has no mean to show: its images are draws in either mode."
    ),
]


_seeds = random.Random()  # noqa: S311  (no secret; and the system's own numbers cost a request its turn at the GIL)


def random_seed() -> int:
    """A seed for a request that names none."""
    return _seeds.randint(0, MAX_SEED)


async def _images(
    request: Request,
    service: ServiceParameter,
    loaded: Model,
    resize: Annotated[bool, Query(description="Fit images of another size to the model's.")] = False,
    invert: Annotated[bool, Query(description="Swap dark and light, for dark ink on a light ground.")] = False,
) -> ModelImages:
    settings = service.settings
    return await read_images(
        request,
        loaded,
        resize=resize,
        invert=invert,
        max_images=settings.max_images,
        max_pixels=settings.max_image_pixels,
    )


Images = Annotated[ModelImages, Depends(_images)]
