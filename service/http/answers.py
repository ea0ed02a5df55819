"""Responses: PNG, JSON or NPY as the client asked, with the headers that say what gave the answer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel

from service.cache import Cache
from service.engine.protocol import Layout
from service.errors import NotAcceptable
from service.http.negotiation import qualities
from service.http.problems import problem_responses
from service.http.schemas import ImagesAnswer
from service.http.validators import REVALIDATE, etag_of, not_modified
from service.images import sheet_size
from service.models.loaded import LoadedModel

__all__ = [
    "ANSWER_HEADERS",
    "IMAGE_RESPONSE",
    "MEDIA_TYPES",
    "ImageFormat",
    "answer",
    "answer_type",
    "cached_answer",
    "choose_format",
    "image_response",
    "png_pixels",
    "results_json",
]

ImageFormat = Literal["png", "json", "npy"]

MEDIA_TYPES: dict[ImageFormat, str] = {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}
BYTES = "application/octet-stream"
"""What generated clients call bytes; one that asks for it gets a PNG."""
OFFERS: dict[str, ImageFormat] = {
    "image/png": "png",
    "application/json": "json",
    "application/x-npy": "npy",
    BYTES: "png",
}

ANSWER_HEADERS: dict[str, Any] = {
    "X-Model": {"schema": {"type": "string"}, "description": "Name of the model that answered."},
    "X-Model-Version": {"schema": {"type": "string"}, "description": "Its version."},
    "X-Seed": {"schema": {"type": "integer"}, "description": "The seed that gives the same answer again."},
    "X-Cache": {"schema": {"type": "string"}, "description": "`hit` or `miss`."},
    "ETag": {
        "schema": {"type": "string"},
        "description": "Names the answer; a GET request with it in `If-None-Match` is answered 304 while it holds.",
    },
}


def image_response(json_model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of images that go out; FastAPI fills in the schema of the JSON."""
    return {
        200: {
            "description": "A PNG (one image, or a contact sheet), JSON or a NumPy file.",
            "model": json_model,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                BYTES: {"schema": {"type": "string", "format": "binary"}},
                "application/json": {},
                "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
            },
            "headers": ANSWER_HEADERS,
        },
        **problem_responses(NotAcceptable),
    }


IMAGE_RESPONSE = image_response(ImagesAnswer)


def png_pixels(layout: Layout, shape: Sequence[int]) -> int:
    """Pixels of a PNG of images of that shape, (N, C, H, W)."""
    count, _, height, width = shape
    if count <= 1:
        return count * height * width * layout.scale**2
    return math.prod(sheet_size(shape, columns=layout.columns, scale=layout.scale))


def choose_format(request: Request, wanted: ImageFormat | None) -> ImageFormat:
    """`format=` if given, else the first of `Accept` (by its q-values) that there is; PNG for a request without one.

    Raises `NotAcceptable` if the request accepts none of them.
    """
    return wanted or OFFERS[_preferred(request.headers.get("accept", ""))]


def answer_type(request: Request, layout: Layout) -> str:
    """Media type of images in this layout: that of their format, or bytes for a client that asks for bytes."""
    if layout.format == "png" and BYTES in request.headers.get("accept", ""):
        with contextlib.suppress(NotAcceptable):
            if _preferred(request.headers["accept"]) == BYTES:
                return BYTES
    return MEDIA_TYPES[layout.format]


@lru_cache(maxsize=256)
def _preferred(accept: str) -> str:
    """The media type among `OFFERS` that the client prefers."""
    wanted = qualities(accept)
    refused = {media_type for media_type, quality in wanted.items() if not quality}
    accepted = [media_type for media_type, quality in wanted.items() if quality and "/" in media_type]
    for media_type in sorted(accepted, key=lambda media_type: -wanted[media_type]):
        for known in OFFERS:
            if known not in refused and media_type in (known, "*/*", known.partition("/")[0] + "/*"):
                return known
    if accepted:
        raise NotAcceptable(f"Images go out as {', '.join(OFFERS)}; ask for one of these in Accept, or with format=.")
    return "image/png"


def results_json(loaded: LoadedModel, names: Sequence[str], results: Sequence[bytes], **fields: Any) -> bytes:
    """JSON named after the model, with one result for each file: a JSON object that gets the file's name."""
    head = msgspec.json.encode({"model": loaded.card.name, "model_version": loaded.card.version, **fields})
    # the results are JSON already, so the text is put together and not decoded
    items = [
        b'{"file":' + msgspec.json.encode(name) + b"," + result[1:] for name, result in zip(names, results, strict=True)
    ]
    return head[:-1] + b',"results":[' + b",".join(items) + b"]}"


async def cached_answer(
    request: Request,
    loaded: LoadedModel,
    cache: Cache,
    key: str,
    compute: Callable[[], Awaitable[bytes]],
    media_type: str,
) -> Response:
    """The answer to a GET request that the cache keeps under `key`; 304 if the client has it already."""
    etag = etag_of(key)
    if (unchanged := not_modified(request, etag)) is not None:
        return unchanged
    body, hit = await cache.get_or_compute(key, compute)
    return answer(body, media_type, loaded, hit=hit, etag=etag)


def answer(
    body: bytes,
    media_type: str,
    loaded: LoadedModel,
    *,
    seed: int | None = None,
    hit: bool | None = None,
    etag: str = "",
) -> Response:
    """The response.

    seed: where one was used
    hit:  where the cache was asked
    etag: names the answer; without one the same request gets another answer the next time, and nobody may keep it
    """
    headers = (
        {**loaded.headers, **REVALIDATE, "ETag": etag} if etag else {**loaded.headers, "Cache-Control": "no-store"}
    )
    if seed is not None:
        headers["X-Seed"] = str(seed)
    if hit is not None:
        headers["X-Cache"] = "hit" if hit else "miss"
    return Response(body, media_type=media_type, headers=headers)
