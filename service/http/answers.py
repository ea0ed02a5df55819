"""From arrays to responses: PNG, JSON or NPY as the client asked, with the headers that say what gave the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel

from service.images import encode_npy, encode_png, sheet_png, sheet_size
from service.http.schemas import ImagesAnswer
from service.models.store import LoadedModel

__all__ = [
    "ANSWER_HEADERS",
    "IMAGE_RESPONSE",
    "ImageFormat",
    "Layout",
    "answer",
    "choose_format",
    "image_response",
    "model_json",
    "rounded",
]

ImageFormat = Literal["png", "json", "npy"]

MEDIA_TYPES: dict[ImageFormat, str] = {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}

ANSWER_HEADERS: dict[str, Any] = {
    "X-Model": {"schema": {"type": "string"}, "description": "Name of the model that answered."},
    "X-Model-Version": {"schema": {"type": "string"}, "description": "Its version."},
    "X-Seed": {"schema": {"type": "integer"}, "description": "The seed that gives the same answer again."},
    "X-Cache": {"schema": {"type": "string"}, "description": "`hit` or `miss`."},
}


def image_response(json_model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of images that go out; FastAPI fills in the schema of the JSON."""
    return {
        200: {
            "description": "A PNG (one image, or a contact sheet), JSON or a NumPy file.",
            "model": json_model,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {},
                "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
            },
            "headers": ANSWER_HEADERS,
        }
    }


IMAGE_RESPONSE = image_response(ImagesAnswer)


@dataclass(frozen=True)
class Layout:
    """How images go out: the format and, for a PNG, images a row and the whole factor that enlarges them."""

    format: ImageFormat
    columns: int
    scale: int

    @property
    def media_type(self) -> str:
        """Of the response."""
        return MEDIA_TYPES[self.format]

    def pixels(self, shape: Sequence[int]) -> int:
        """Pixels of a PNG of images of that shape, (N, C, H, W)."""
        count, _, height, width = shape
        if count <= 1:
            return count * height * width * self.scale**2
        return math.prod(sheet_size(shape, columns=self.columns, scale=self.scale))

    def render(self, images: NDArray[np.float32], loaded: LoadedModel, seed: int | None = None) -> bytes:
        """A body of images (N, C, H, W); slow enough to belong into a worker thread."""
        if self.format == "png" and len(images) == 1:  # without a sheet's margin, so that it can be sent back
            return encode_png(images[0], scale=self.scale)
        if self.format == "png":
            return sheet_png(images, columns=self.columns, scale=self.scale)
        if self.format == "npy":
            return encode_npy(images)
        return model_json(ImagesAnswer, loaded, seed=seed, shape=list(images.shape), images=rounded(images))


def choose_format(request: Request, wanted: ImageFormat | None) -> ImageFormat:
    """`format=` if given, else the first of `Accept` (by its q-values) that there is, else PNG."""
    return wanted or _preferred(request.headers.get("accept", ""))


@lru_cache(maxsize=256)
def _preferred(accept: str) -> ImageFormat:
    offers = [_offer(item) for item in accept.split(",")]
    refused = {media_type for media_type, quality in offers if not quality}
    for media_type, quality in sorted(offers, key=lambda offer: -offer[1]):
        for format_, known in MEDIA_TYPES.items():
            if quality and known not in refused and media_type in (known, "*/*", known.partition("/")[0] + "/*"):
                return format_
    return "png"


def _offer(item: str) -> tuple[str, float]:
    """Media type and quality of an item of `Accept`; a quality that is no number is none."""
    media_type, *parameters = [part.strip().lower() for part in item.split(";")]
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return media_type, max(0.0, float(quality))
    except ValueError:
        return media_type, 0.0


def rounded(values: NDArray[np.floating[Any]]) -> list[Any]:
    """Nested lists with six decimals: more than a pixel or a latent can tell, at half the bytes."""
    return list(np.round(values.astype(np.float64), 6).tolist())


def model_json(schema: type[BaseModel], loaded: LoadedModel, **values: Any) -> bytes:
    """JSON of that schema, named after the model. Not validated: large answers would take longer than to compute."""
    names = {"model": loaded.card.name, "model_version": loaded.card.version}
    if unknown := {*names, *values} - set(schema.model_fields):
        raise ValueError(f"{schema.__name__} has no field {sorted(unknown)[0]}")
    return json.dumps(names | values, separators=(",", ":"), allow_nan=False).encode()


def answer(
    body: bytes, media_type: str, loaded: LoadedModel, *, seed: int | None = None, hit: bool | None = None
) -> Response:
    """The response; `seed` where one was used, `hit` where the cache was asked."""
    headers = {"X-Model": loaded.card.name, "X-Model-Version": loaded.card.version}
    if seed is not None:
        headers["X-Seed"] = str(seed)
    if hit is not None:
        headers["X-Cache"] = "hit" if hit else "miss"
    return Response(body, media_type=media_type, headers=headers)
