"""What requests may ask: the parameters that several routes share, in models that a route's own model inherits from."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import numpy as np
from fastapi import Request
from pydantic import Field

from service.cache import Cache
from service.engine.protocol import Layout
from service.errors import BadParameter
from service.http.answers import ImageFormat, choose_format, png_pixels
from service.http.routes.query import QueryModel
from service.http.uploads import ModelImages, UploadReader
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.store import ModelStore
from service.settings import Settings
from service.tracing import span
from vampprior.binarization import sample_binary

__all__ = [
    "MAX_SEED",
    "BinarizeQuery",
    "LayoutQuery",
    "Mode",
    "ModelQuery",
    "Seed",
    "Service",
    "UploadQuery",
    "client_of",
    "random_seed",
    "refuse_body",
    "resolve_model",
    "service_of",
]

MAX_SEED = 2**53 - 1  # the largest whole number that every JSON reader keeps exactly


@dataclass(frozen=True)
class Service:
    """What the routes work with; the application keeps one in `app.state.service`."""

    settings: Settings
    metrics: Metrics
    store: ModelStore
    cache: Cache
    uploads: UploadReader


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    return cast("Service", request.app.state.service)


def resolve_model(request: Request, reference: str | None) -> LoadedModel:
    """The model of that reference, or the default one; the request's metrics, log line and span then name it.

    Raises `ModelNotFound` or, while it loads, `NotReady`.
    """
    loaded = service_of(request).store.resolve(reference)
    request.scope["state"]["model"] = loaded.engine.reference
    return loaded


def client_of(request: Request) -> str:
    """Who asks: a key or an address."""
    return str(request.scope["state"].get("client", ""))


def refuse_body(request: Request) -> None:
    """Raise `BadParameter` if a request has a body although its parameters go in the query string."""
    for name, value in request.scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            raise BadParameter(
                f"{request.scope['path']} takes no body: its parameters go in the query string, ?name=value"
            )


Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description="The same seed gives the same answer.")]


class ModelQuery(QueryModel):
    """Who answers."""

    model: str | None = Field(
        None, description="The model that answers, `name` or `name@version`; the service's default if left out."
    )

    def loaded(self, request: Request) -> LoadedModel:
        """That model. Raises `ModelNotFound` or, while it loads, `NotReady`."""
        return resolve_model(request, self.model)


class LayoutQuery(ModelQuery):
    """How images go out."""

    format: ImageFormat | None = Field(None, description="`png`, `json` or `npy`; wins over the `Accept` header.")
    columns: int = Field(10, ge=1, le=64, description="Images in a row of a contact sheet.")
    scale: int = Field(1, ge=1, le=16, description="Enlarges a PNG by whole pixels.")

    def layout(self, request: Request, num_images: int) -> Layout:
        """The format that parameter and header ask for, and its settings; raises `BadParameter` for too large a PNG."""
        layout = Layout(choose_format(request, self.format), self.columns, self.scale)
        pixels = png_pixels(layout, (num_images, *self.loaded(request).card.model.image_shape))
        most = service_of(request).settings.max_answer_pixels
        if layout.format == "png" and pixels > most:
            raise BadParameter(
                f"the PNG would have {pixels:,} pixels, this service makes at most {most:,}; lower `scale`"
            )
        return layout


class UploadQuery(ModelQuery):
    """How uploads become images of the model's size."""

    resize: bool = Field(
        False,
        description="Stretch images of another size to the model's. Not needed where the model's card has a "
        "`preparation`: images of any size are then prepared as the training images were, and `resize` has no effect.",
    )
    invert: bool = Field(False, description="Swap dark and light, for dark ink on a light ground.")

    async def images(self, request: Request) -> ModelImages:
        """The uploaded images; raises a `Problem` for what cannot be used."""
        card = self.loaded(request).card
        with span("decode") as decoding:  # the arrival of the body included
            images = await service_of(request).uploads.read(request, card, resize=self.resize, invert=self.invert)
            if decoding is not None:
                decoding.set_attribute("vampprior.images", len(images))
        return images


class BinarizeQuery(UploadQuery):
    """How gray uploads become black and white for a binary model."""

    seed: Seed = 0
    binarize: Literal["threshold", "sample"] = Field(
        "threshold",
        description="`threshold`: a pixel is white from a level of 128; `sample`: white with the probability that its "
        "level says, drawn with `seed`, as static MNIST was made. A thresholded image is smoother than a sampled one.",
    )

    async def images(self, request: Request) -> ModelImages:
        """The uploaded images, with their pixels drawn if wanted; raises a `Problem` for what cannot be used."""
        return self._binarized(request, await super().images(request))

    async def windows(self, request: Request, size: int) -> AsyncGenerator[ModelImages]:
        """The uploaded images, `size` at a time; raises a `Problem` when it comes to what cannot be used."""
        card = self.loaded(request).card
        uploads = service_of(request).uploads
        parts = uploads.windows(request, card, size=size, resize=self.resize, invert=self.invert)
        async with aclosing(parts):
            async for images in parts:
                yield self._binarized(request, images)

    def _binarized(self, request: Request, images: ModelImages) -> ModelImages:
        if self.binarize == "threshold":
            return images
        if self.loaded(request).card.model.likelihood != "bernoulli":
            raise BadParameter("binarize=sample is for binary models, and this one takes gray levels as they are")
        drawn = [sample_binary(image[None], self.seed) for image in images.gray]  # whatever images are beside it
        return ModelImages(images.names, np.concatenate(drawn))


Mode = Annotated[
    Literal["mean", "draw"],
    Field(
        description="`mean`: the expected image; `draw`: pixels drawn from p(x | z). "
        "A model with a PixelCNN decoder has no mean to show: its images are draws in either mode."
    ),
]

_seeds = random.Random()  # noqa: S311  (no secret; and the system's own numbers cost a request its turn at the GIL)


def random_seed() -> int:
    """A seed for a request that names none."""
    return _seeds.randint(0, MAX_SEED)
