"""Uploaded images: a form, a raw PNG, JPEG or WebP body, a NumPy file, or JSON with images in base64."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from hardware import trim_memory
from service.errors import BadParameter, Problem, TooLarge, UnsupportedMediaType
from service.http.budget import Budget
from service.http.forms import iterate_form_files, read_form_files
from service.http.json_images import read_json_images
from service.images import ImageArray, Target, check_pixels, format_names, open_image
from service.images.pixels import OpenedImage
from service.settings import Settings
from vampprior.card import Card

__all__ = ["ARRAY_TYPES", "OPTIONAL_UPLOAD_BODY", "UPLOAD_BODY", "ModelImages", "UploadReader"]

RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
ARRAY_TYPES = ("application/x-npy", "application/x-npz", "application/zip")
"""Media types of NumPy files."""
DECODING_THREADS = 4
NO_IMAGE = "no image was sent: put it into the form field `file`, or send it as a raw body of type image/png"

LARGE_BYTES, LARGE_PIXELS = 1 << 20, 1 << 18
"""Uploads beyond either leave so much freed memory behind that it is given back once no other is in hand."""

SMALL_BYTES, SMALL_PIXELS = 4096, 64 * 64
"""A body of one image below both is read on the event loop: that takes 0.1 ms, and in a thread five times as long while
all processors are busy."""

UPLOAD_BODY: dict[str, Any] = {"requestBody": {"$ref": "#/components/requestBodies/Images"}}
"""OpenAPI's description of a body of images, which `service.http.openapi` adds to the document."""
OPTIONAL_UPLOAD_BODY: dict[str, Any] = {"requestBody": {"$ref": "#/components/requestBodies/OptionalImages"}}
"""The same, where a call can do without images."""


Result = TypeVar("Result")


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

    def part(self, start: int, stop: int) -> ModelImages:
        """Some of the images."""
        return ModelImages(self.names[start:stop], self.gray[start:stop])

    def digests(self) -> list[str]:
        """A hash of each image's pixels, for cache keys."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.gray]

    def levels(self) -> list[bytes]:
        """The gray levels of each image."""
        return [image.tobytes() for image in self.gray]


class _Hold:
    """Body bytes of one request that count towards the budget of the process."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.amount = budget, 0

    def add(self, amount: int) -> None:
        """Raises `Overloaded`."""
        self.budget.take(amount)
        self.amount += amount

    def release(self) -> None:
        """Give back everything that was added."""
        self.budget.give_back(self.amount)
        self.amount = 0


class UploadReader:
    """Reads and decodes the uploads of one application, within bounds that its requests share.

    body_bytes: bytes of bodies that are held
    stream_bytes: bytes of bodies whose images are read a few at a time
    pixels:     pixels that are being decoded; the images of one request are decoded one after another
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.formats = settings.image_format_list()
        self.body_bytes = Budget(
            settings.held_body_bytes, "The service holds as many uploads as it can; send it again."
        )
        self.stream_bytes = Budget(
            settings.held_stream_bytes, "The service streams as many uploads as it can; send it again."
        )
        self.pixels = Budget(
            settings.decoding_pixels, "The service decodes as many pixels as it can; send the images again."
        )
        self._threads = ThreadPoolExecutor(DECODING_THREADS, "decode")
        self._large = False  # an upload since memory was given back was large

    def close(self) -> None:
        """Decode nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, request: Request, card: Card, *, resize: bool, invert: bool) -> ModelImages:
        """The request's images, prepared for the model of this card.

        If the request is cancelled, the work stops after the current image or piece of the form.

        Raises `UnsupportedMediaType` for another kind of body or image, `TooLarge` for too many images or pixels,
        `BadImage` or `BadParameter` for images that cannot be used, and `Overloaded` if the process already holds or
        decodes as much as it may.
        """
        target = Target(card.model.image_shape, card.preparation, resize, invert)
        content_type = request.headers.get("content-type", "")
        hold, stop = _Hold(self.body_bytes), threading.Event()
        work: Future[ModelImages] | None = None
        try:
            _media_type(content_type, self.formats)
            body = await _read_body(request, hold)
            if len(body) <= SMALL_BYTES and _media_type(content_type, self.formats) not in ARRAY_TYPES:
                files = self._split(content_type, body, stop)
                images = self._open(files, target, stop)
                if len(files) == 1 and images[0].pixels <= SMALL_PIXELS:
                    return self._decode(files, images, target, stop)
            work = self._threads.submit(self._read, content_type, body, target, stop)
            return await asyncio.wrap_future(work)
        finally:
            if work is None:
                self._release(hold)
            else:  # a thread cannot be cancelled: it holds the body until it has noticed
                stop.set()
                work.add_done_callback(lambda _: self._release(hold))

    async def windows(
        self, request: Request, card: Card, *, size: int, resize: bool, invert: bool
    ) -> AsyncGenerator[ModelImages]:
        """The images of a request, `size` at a time; only the body is held whole. Close the generator in the end.

        Raises what `read` raises, when it comes to the image that is wrong.
        """
        target = Target(card.model.image_shape, card.preparation, resize, invert)
        content_type = request.headers.get("content-type", "")
        hold, stop = _Hold(self.stream_bytes), threading.Event()
        work: Future[ModelImages | None] | None = None
        try:
            _media_type(content_type, self.formats)
            windows = self._windows(content_type, await _read_body(request, hold), target, size, stop)
            while True:
                work = self._threads.submit(next, windows, None)
                images = await asyncio.wrap_future(work)
                if images is None:
                    return
                yield images
        finally:
            stop.set()
            if work is None:
                self._release(hold)
            else:
                work.add_done_callback(lambda _: self._release(hold))

    async def read_with(
        self, request: Request, read: Callable[[bytes], Result], *, max_bytes: int | None = None
    ) -> Result:
        """What `read` makes of the request's body: on the event loop if the body is small, else in a thread.

        Raises `TooLarge` for more than `max_bytes`, and `Overloaded` if the process already holds as much as it may.
        """
        hold = _Hold(self.body_bytes)
        work: Future[Result] | None = None
        try:
            body = await _read_body(request, hold, max_bytes)
            if len(body) <= SMALL_BYTES:
                return read(body)
            work = self._threads.submit(read, body)
            return await asyncio.wrap_future(work)
        finally:
            if work is None:
                self._release(hold)
            else:
                work.add_done_callback(lambda _: self._release(hold))

    def _windows(
        self, content_type: str, body: bytes, target: Target, size: int, stop: threading.Event
    ) -> Iterator[ModelImages]:
        if _media_type(content_type, self.formats) in ARRAY_TYPES:
            yield from self._array_windows(body, target, size, self.settings.stream_images)
            return
        files = self._files(content_type, body, stop)
        while batch := list(islice(files, size)):
            yield self._decode(batch, self._open(batch, target, stop), target, stop)

    @staticmethod
    def _array_windows(body: bytes, target: Target, size: int, most: int) -> Iterator[ModelImages]:
        array = ImageArray.open(body, target.shape, max_images=most)
        for start in range(0, len(array), size):
            images = array.read(size)
            names = [f"image {index}" for index in range(start, start + len(images))]
            yield ModelImages(names, ~images if target.invert else images)

    def _files(self, content_type: str, body: bytes, stop: threading.Event) -> Iterator[tuple[str, bytes]]:
        """Name and content of each uploaded file, one after another."""
        if _media_type(content_type, self.formats) != "multipart/form-data":
            yield from self._split(content_type, body, stop)
            return
        none = True
        for file in iterate_form_files(content_type, body, max_images=self.settings.stream_images, stop=stop):
            none = False
            yield file
        if none:
            raise BadParameter(NO_IMAGE)

    def _release(self, hold: _Hold) -> None:
        """Count a body off, and give freed memory back after the last large upload."""
        self._large = self._large or hold.amount > LARGE_BYTES
        hold.release()
        if self._large and self.body_bytes.used < LARGE_BYTES and self.pixels.used < LARGE_PIXELS:
            self._large = False
            with contextlib.suppress(RuntimeError):  # the service stops
                self._threads.submit(trim_memory)

    def _read(self, content_type: str, body: bytes, target: Target, stop: threading.Event) -> ModelImages:
        if _media_type(content_type, self.formats) in ARRAY_TYPES:
            _, height, width = target.shape
            most = min(self.settings.max_images, self.settings.max_request_pixels // (height * width))
            return next(self._array_windows(body, target, most, most))
        files = self._split(content_type, body, stop)
        images = self._open(files, target, stop)
        return self._decode(files, images, target, stop)

    def _split(self, content_type: str, body: bytes, stop: threading.Event) -> list[tuple[str, bytes]]:
        """Name and content of each uploaded file."""
        media_type, most = _media_type(content_type, self.formats), self.settings.max_images
        if media_type == "multipart/form-data":
            files = read_form_files(content_type, body, max_images=most, stop=stop)
        elif media_type == "application/json":
            contents = read_json_images(body, max_images=most)
            files = [(f"image {index}", content) for index, content in enumerate(contents)]
        else:
            files = [("image", body)] if body else []
        if not files:
            raise BadParameter(NO_IMAGE)
        return files

    def _open(self, files: Sequence[tuple[str, bytes]], target: Target, stop: threading.Event) -> list[OpenedImage]:
        """Check every image's header before the pixels of any are decoded."""
        images = []
        for name, content in files:
            if stop.is_set():
                raise CancelledError
            with _Named(name, files):
                image = open_image(content, formats=self.formats)
                check_pixels(image, self.settings.max_image_pixels)
                target.check_size(image.size)
                images.append(image)
        total = sum(image.pixels for image in images)
        if total > self.settings.max_request_pixels:
            most = self.settings.max_request_pixels
            raise TooLarge(f"The images have {total} pixels together, more than the {most} that a request may have.")
        return images

    def _decode(
        self, files: Sequence[tuple[str, bytes]], images: list[OpenedImage], target: Target, stop: threading.Event
    ) -> ModelImages:
        fitted = np.empty((len(images), *target.shape), np.uint8)
        self._large = self._large or max(image.pixels for image in images) > LARGE_PIXELS
        with self.pixels.hold(max(image.pixels for image in images)):
            for index, image in enumerate(images):
                if stop.is_set():
                    raise CancelledError
                with _Named(files[index][0], files):
                    fitted[index] = target.fit(image.decode())
        return ModelImages([name for name, _ in files], fitted)


class _Named:
    """Adds the name of the image to a problem, where a request has several."""

    def __init__(self, name: str, files: Sequence[tuple[str, bytes]]) -> None:
        self.prefix = f"{name}: " if len(files) > 1 else ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Problem):
            error.detail = self.prefix + error.detail


def _media_type(content_type: str, formats: Sequence[str]) -> str:
    """The media type of a body that can be read. Raises `UnsupportedMediaType` for any other."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("multipart/form-data", "application/json", *RAW_TYPES, *ARRAY_TYPES):
        return media_type
    raise UnsupportedMediaType(
        f"the body is {media_type or 'of no type'}; send multipart/form-data with a {format_names(formats)} file in "
        "`file`, the file as a raw body of type image/png, image/jpeg or image/webp, a NumPy file as "
        "application/x-npy or application/x-npz, or application/json with files in base64 in `images`"
    )


async def _read_body(request: Request, hold: _Hold, max_bytes: int | None = None) -> bytes:
    """The whole body, counted towards the budget while it arrives."""
    body = io.BytesIO()  # `getvalue` does not copy
    async for chunk in request.stream():
        hold.add(len(chunk))
        if max_bytes is not None and hold.amount > max_bytes:
            raise TooLarge(f"The body may have at most {max_bytes:,} bytes.")
        body.write(chunk)
    return body.getvalue()
