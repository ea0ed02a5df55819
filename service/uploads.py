"""Uploaded images: multipart `file` fields, a raw PNG body, or JSON with base64 PNGs."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service.errors import BadParameter, Problem, TooLarge, UnsupportedMediaType
from service.images import decode_png, fit_to_model
from service.schemas import EXAMPLE_PNG, Base64Images
from service.store import LoadedModel

__all__ = ["UPLOAD_BODY", "ModelImages", "read_images"]

RAW_TYPES = ("image/png", "application/octet-stream")
SMALL_BYTES, SMALL_PIXELS = 4096, 64 * 64
"""Of an image that is decoded on the event loop if it comes alone. It takes 0.1 ms, and the way to another thread and
back five times that where all are busy."""

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": Base64Images.model_json_schema(),
                "example": {"images": [EXAMPLE_PNG]},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""OpenAPI's description of a body that `read_images` takes."""


@dataclass(frozen=True)
class ModelImages:
    """Images of the model's shape.

    names: of the uploaded files, or their numbers
    gray:  8-bit gray levels (or colours), shape (N, C, H, W)
    """

    names: list[str]
    gray: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    def digests(self) -> list[str]:
        """A hash of each image's pixels, for cache keys."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.gray]


async def read_images(
    request: Request, loaded: LoadedModel, *, resize: bool, invert: bool, max_images: int, max_pixels: int
) -> ModelImages:
    """The request's images, decoded and fitted to the model.

    Raises `UnsupportedMediaType` for another kind of body, `TooLarge` for too many images or pixels, and `BadImage` or
    `BadParameter` for images that cannot be used.
    """
    files = await _read_files(request, max_images)
    if not files:
        raise BadParameter("no image was sent: put it into the form field `file`, or send it as a raw image/png body")
    if len(files) > max_images:
        raise TooLarge(f"{len(files)} images were sent, a request may have {max_images}")
    shape = loaded.card.model.image_shape

    def decode(max_pixels: int) -> NDArray[np.uint8]:
        images = []
        for name, data in files:
            try:
                pixels = decode_png(data, max_pixels=max_pixels)
                images.append(fit_to_model(pixels, shape, resize=resize, invert=invert))
            except Problem as problem:
                if len(files) > 1:
                    problem.detail = f"{name}: {problem.detail}"
                raise
        return np.stack(images)

    names = [name for name, _ in files]
    if len(files) == 1 and len(files[0][1]) <= SMALL_BYTES:
        with contextlib.suppress(TooLarge):  # found before any pixel is decoded
            return ModelImages(names, decode(min(max_pixels, SMALL_PIXELS)))
    return ModelImages(names, await run_in_threadpool(decode, max_pixels))


async def _read_files(request: Request, max_images: int) -> list[tuple[str, bytes]]:
    """Name and content of each uploaded file."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _read_form(request, max_images)
    if media_type in RAW_TYPES:
        body = await request.body()
        return [("image", body)] if body else []
    if media_type == "application/json":
        return await run_in_threadpool(_read_json, await request.body())
    raise UnsupportedMediaType(
        f"the body is {media_type or 'of no type'}; send multipart/form-data with a PNG in `file`, a raw image/png "
        "body, or application/json with base64 PNGs in `images`"
    )


async def _read_form(request: Request, max_images: int) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=max_images + 1, max_fields=max_images + 1) as form:
            parts = form.getlist("file")
            if not all(isinstance(part, UploadFile) for part in parts):
                raise BadParameter("the form field `file` must be a file, not text; with curl: -F file=@digit.png")
            uploads = [part for part in parts if isinstance(part, UploadFile)]
            return [(part.filename or f"image {i}", await part.read()) for i, part in enumerate(uploads)]
    except HTTPException as error:
        if "Too many" in str(error.detail):
            raise TooLarge(f"a request may have {max_images} images") from error
        raise BadParameter(f"the form cannot be read: {error.detail}") from error


def _read_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        images = Base64Images.model_validate_json(body).images
    except ValidationError as error:
        raise BadParameter(f"the JSON body cannot be read: {error.errors(include_url=False)[0]['msg']}") from error
    files = []
    for index, text in enumerate(images):
        encoded = text.partition("base64,")[2] if text.startswith("data:") else text
        try:
            files.append((f"image {index}", base64.b64decode(encoded, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise BadParameter(f"images[{index}] is not base64: {error}") from error
    return files
