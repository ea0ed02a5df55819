"""Images in (PNG, JPEG and WebP) and out (PNG and npy). Pure functions, so that they may run in any thread."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import jpeg, png
from service.errors import BadImage, TooLarge, UnsupportedMediaType, WrongSize
from service.jpeg import open_jpeg
from service.pixels import OpenedImage
from service.png import open_png
from service.webp import is_webp, open_webp

__all__ = [
    "FORMATS",
    "check_pixels",
    "check_size",
    "contact_sheet",
    "decode_image",
    "encode_npy",
    "encode_png",
    "fit_to_model",
    "format_names",
    "open_image",
    "sheet_png",
    "sheet_size",
]

OPENERS: Mapping[str, Callable[[bytes], OpenedImage]] = {"png": open_png, "jpeg": open_jpeg, "webp": open_webp}
NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
FORMATS = tuple(OPENERS)
"""Formats of images that can be read."""

ROWS_AT_ONCE = 256  # of a PNG that is written, so that a large one is not held twice
GAP = 64  # dark gray between the images of a contact sheet


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


def encode_png(image: NDArray[np.floating], *, scale: int = 1) -> bytes:
    """PNG of an image of shape (C, H, W), C = 1 or 3, with values in [0, 1]; of one bit if all are black or white.

    `scale` makes each pixel a square of so many pixels.
    """
    return _write_png(_enlarge(_levels(image), scale))


def contact_sheet(images: NDArray[np.floating], *, columns: int, scale: int, padding: int = 2) -> NDArray[np.uint8]:
    """Gray levels (C, H', W') of images (N, C, H, W) in rows of `columns`, enlarged, `padding` pixels apart."""
    count, channels, height, width = images.shape
    sheet = np.full((channels, *sheet_size(images.shape, columns=columns, scale=scale, padding=padding)), GAP, np.uint8)
    for index, image in enumerate(_levels(images)):
        row, column = divmod(index, min(columns, count))
        top, left = padding + row * (height * scale + padding), padding + column * (width * scale + padding)
        sheet[:, top : top + height * scale, left : left + width * scale] = _enlarge(image, scale)
    return sheet


def sheet_size(shape: Sequence[int], *, columns: int, scale: int, padding: int = 2) -> tuple[int, int]:
    """Height and width of the contact sheet of images of that shape, (N, C, H, W)."""
    count, _, height, width = shape
    columns = min(columns, count)
    rows = -(-count // columns)
    return rows * (height * scale + padding) + padding, columns * (width * scale + padding) + padding


def sheet_png(images: NDArray[np.floating], *, columns: int, scale: int, padding: int = 2) -> bytes:
    """PNG of the contact sheet of images of shape (N, C, H, W)."""
    return _write_png(contact_sheet(images, columns=columns, scale=scale, padding=padding))


def encode_npy(array: NDArray[np.generic]) -> bytes:
    """The array in NumPy's `.npy` format, which `np.load(..., allow_pickle=False)` reads."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _levels(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The gray level of each value: the bins of the discretized logistic."""
    return (images * 256).clip(0, 255).astype(np.uint8)


def _enlarge(levels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Images of shape (..., H, W), each pixel become a square of `scale` pixels: (..., scale H, scale W)."""
    return levels if scale == 1 else levels.repeat(scale, axis=-2).repeat(scale, axis=-1)


def _write_png(levels: NDArray[np.uint8]) -> bytes:
    """PNG of gray levels or colours, (C, H, W).

    Written here, unfiltered, since Pillow takes three times as long for an image of 28 x 28: as long as the whole of
    drawing it.
    """
    channels, height, width = levels.shape
    rows = levels.transpose(1, 2, 0).reshape(height, width * channels)
    depth = 8
    if channels == 1 and not (rows[0] % 255).any() and not (rows % 255).any():
        rows, depth = np.packbits(rows, axis=1), 1
    header = struct.pack(">IIBBBBB", width, height, depth, png.GRAY if channels == 1 else png.RGB, 0, 0, 0)
    compressor = zlib.compressobj(1)  # fast: the default takes several times as long for a few per cent
    pixels = []
    for top in range(0, height, ROWS_AT_ONCE):
        block = rows[top : top + ROWS_AT_ONCE]
        filtered = np.zeros((len(block), 1 + block.shape[1]), np.uint8)  # each row after its filter's number, 0: none
        filtered[:, 1:] = block
        pixels.append(compressor.compress(filtered.data))
    pixels.append(compressor.flush())
    return png.SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(pixels)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: its length, name, data and checksum."""
    return struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4)
