"""`POST /decode`: latents, decoded to images."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from service.cache import cache_key
from service.errors import BadParameter, TooLarge, UnsupportedMediaType
from service.http.answers import IMAGE_RESPONSE, answer, answer_type
from service.http.problems import PROBLEM_RESPONSES
from service.http.routes.parameters import LayoutQuery, Seed, client_of, service_of
from service.http.routes.query import QueryRoute
from service.http.validators import etag_of
from service.models.loaded import LoadedModel

__all__ = ["router"]

MAX_IMAGES, MAX_BODY_BYTES = 64, 1 << 20
"""Images of a request, and bytes of its body."""
MAX_LATENT = 10_000
"""Largest latent, many times what a prior gives; far larger ones overflow in the networks."""

EXAMPLE = {"latents": {"z2": [[0.0] * 40]}}
LATENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["latents"],
                    "properties": {
                        "latents": {
                            "type": "object",
                            "description": "Latents by layer, a list of numbers for each image. The top layer is "
                            "needed (`z2`, or `z1` of a model with one layer); a layer that is left out is at its mean "
                            f"given those above. At most {MAX_IMAGES} images.",
                            "additionalProperties": {
                                "type": "array",
                                "items": {"type": "array", "items": {"type": "number"}},
                            },
                        }
                    },
                    "additionalProperties": False,
                },
                "example": EXAMPLE,
            }
        },
    }
}

router = APIRouter(route_class=QueryRoute, tags=["latents"], responses=PROBLEM_RESPONSES)


class LatentsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /decode`."""

    latents: dict[str, list[list[float]]]


class DecodeQuery(LayoutQuery):
    """Parameters of `POST /decode`."""

    seed: Seed = 0


@router.post(
    "/decode", operation_id="decode", responses=IMAGE_RESPONSE, response_class=Response, openapi_extra=LATENTS_BODY
)
async def decode(request: Request, query: Annotated[DecodeQuery, Query()]) -> Response:
    """Decode latents to mean images.

    `seed` draws the pixels of a model with a PixelCNN decoder, whose images have no mean; other models ignore it.
    """
    loaded = query.loaded(request)
    layers = await _read_layers(request, loaded)
    layout = query.layout(request, len(layers[0]))
    latents = [layer.tobytes() for layer in layers]

    async def compute() -> bytes:
        return await loaded.engine.decode(
            latents, n=len(layers[0]), seed=query.seed, layout=layout, client=client_of(request)
        )

    shapes = [layer.shape for layer in layers]
    digests = [layer.hex() for layer in latents]
    key = cache_key("decode", loaded.digest, repr((query.seed, layout, shapes)), *digests)
    body, hit = await service_of(request).cache.get_or_compute(key, compute)
    return answer(body, answer_type(request, layout), loaded, seed=query.seed, hit=hit, etag=etag_of(key))


async def _read_layers(request: Request, loaded: LoadedModel) -> list[NDArray[np.float32]]:
    """The latents in the body, which counts towards the bodies that the process holds.

    Raises `UnsupportedMediaType`, `TooLarge`, `BadParameter` or `Overloaded`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"the body is {media_type or 'of no type'}; send application/json with `latents`")
    return await service_of(request).uploads.read_with(
        request, lambda body: _layers(_parse(body), loaded), max_bytes=MAX_BODY_BYTES
    )


def _parse(body: bytes) -> LatentsBody:
    """The JSON of a body. Raises `BadParameter`."""
    try:
        return msgspec.json.decode(body, type=LatentsBody)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadParameter(f'the body is not `{{"latents": {{layer: [[number, ...], ...]}}}}`: {error}') from None


def _layers(body: LatentsBody, loaded: LoadedModel) -> list[NDArray[np.float32]]:
    """Latents (n, M) of the top layer and of those below it that are given. Raises `BadParameter` or `TooLarge`."""
    dims = loaded.latent_dims
    names = [name for name in dims if name in body.latents]
    if not names or names != list(dims)[: len(names)] or len(names) != len(body.latents):
        top = next(iter(dims))
        raise BadParameter(f"{loaded.reference} has the layers {', '.join(dims)}; give {top}, and then those below it")
    count = len(body.latents[names[0]])
    if not count:
        raise BadParameter(f"{names[0]} is empty; give at least one list of {dims[names[0]]} numbers")
    if count > MAX_IMAGES:
        raise TooLarge(f"{count} images of latents were sent; a request may have {MAX_IMAGES}")
    return [_layer(name, body.latents[name], (count, dims[name])) for name in names]


def _layer(name: str, rows: list[list[float]], shape: tuple[int, int]) -> NDArray[np.float32]:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise BadParameter(f"{name} must be {shape[0]} lists of {shape[1]} numbers each")
    values = np.array(rows, np.float64)
    if not (np.abs(values) <= MAX_LATENT).all():
        raise BadParameter(f"{name} has a number that is not between -{MAX_LATENT:,} and {MAX_LATENT:,}")
    return values.astype(np.float32)
