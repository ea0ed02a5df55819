"""Images in: PNG, JPEG and WebP. Pure functions, so that they may run in any thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadImage, TooLarge, UnsupportedMediaType, WrongSize
from service.images import jpeg, png
from service.images.jpeg import open_jpeg
from service.images.pixels import OpenedImage
from service.images.png import open_png
from service.images.webp import is_webp, open_webp

__all__ = [
    "FORMATS",
    "check_pixels",
    "check_size",
    "decode_image",
    "fit_to_model",
    "format_names",
    "open_image",
]

OPENERS: Mapping[str, Callable[[bytes], OpenedImage]] = {"png": open_png, "jpeg": open_jpeg, "webp": open_webp}
NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
FORMATS = tuple(OPENERS)
"""Formats of images that can be read."""


def decode_image(data: bytes, *, max_pixels: int, formats: Collection[str] = FORMATS) -> NDArray[np.uint8]:
    """Pixels of a PNG, JPEG or WebP: (H, W) if it is gray, (H, W, 3) if it has colours or a palette.

    One bit becomes 0 or 255, 16 bits are reduced to 8, transparent parts are laid over black, the background on which
    models see their images, CMYK becomes RGB, and EXIF's orientation is applied.

    Raises `UnsupportedMediaType` for a format that is not in `formats`, `TooLarge` for more than `max_pixels` pixels
    (from the header, before any is decoded), and `BadImage` for an image that is damaged, animated or empty.
    """
    image = open_image(data, formats=formats)
    check_pixels(image, max_pixels)
    return image.decode()


def open_image(data: bytes, *, formats: Collection[str] = FORMATS) -> OpenedImage:
    """Read an image's header; its first bytes decide its format.

    Raises `UnsupportedMediaType` for a format that is not in `formats`, and `BadImage` for a damaged, animated or empty
    image.
    """
    if not data:
        raise BadImage(f"The image is empty; send the bytes of a {format_names(formats)} file.")
    kind = _format(data)
    if kind not in formats:
        found = f"is a {NAMES[kind]}, which this service does not take" if kind else "is in no format that is known"
        raise UnsupportedMediaType(f"The upload {found}; convert it to {format_names(formats)}.")
    return OPENERS[kind](data)


def check_pixels(image: OpenedImage, max_pixels: int) -> None:
    """Raise `TooLarge` for an image of more than `max_pixels` pixels."""
    if image.pixels > max_pixels:
        height, width = image.size
        raise TooLarge(f"The image has {width} x {height} pixels, more than the {max_pixels} that are allowed.")


def check_size(size: tuple[int, int], image_shape: tuple[int, int, int], *, resize: bool) -> None:
    """Raise `WrongSize` for a size, (height, width), that is not the model's and may not be changed."""
    if size != image_shape[1:] and not resize:
        raise WrongSize(got=size, expected=image_shape[1:])


def format_names(formats: Collection[str]) -> str:
    """The formats as a sentence has them, such as `PNG, JPEG or WebP`."""
    names = [name for kind, name in NAMES.items() if kind in formats]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _format(data: bytes) -> str:
    """Format of an image, from its first bytes; empty if it is none of `FORMATS`."""
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    return "webp" if is_webp(data) else ""


def fit_to_model(
    pixels: NDArray[np.uint8], image_shape: tuple[int, int, int], *, resize: bool, invert: bool
) -> NDArray[np.uint8]:
    """Pixels of `decode_image` in the shape of a model's images, (C, H, W).

    A model of one channel sees colours as luma (ITU-R 601), one of three sees gray three times. `resize` stretches
    the image to the model's size, averaging over areas; without it a wrong size raises `WrongSize`. Then `invert`
    swaps dark and light.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise BadImage(f"The model takes images of {channels} channels, which no image file holds.")
    check_size((pixels.shape[0], pixels.shape[1]), image_shape, resize=resize)
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BOX)
    values = np.ascontiguousarray(np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1))
    return ~values if invert else values
