"""Images out: PNG, contact sheets of several, and NumPy's `.npy`."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.images import png

__all__ = ["contact_sheet", "encode_npy", "encode_png", "enlarged_levels", "render", "sheet_png", "sheet_size"]

ROWS_AT_ONCE = 256  # of a PNG that is written, so that a large one is not held twice
GAP = 64  # dark gray between the images of a contact sheet


def render(images: NDArray[np.floating], kind: str, *, columns: int, scale: int) -> bytes:
    """Images of shape (N, C, H, W) with values in [0, 1] as `png` or `npy`.

    A PNG of one image has no margin, so that it can be sent back; several make a contact sheet.
    """
    if kind == "npy":
        return encode_npy(images)
    if len(images) == 1:
        return encode_png(images[0], scale=scale)
    return sheet_png(images, columns=columns, scale=scale)


def encode_png(image: NDArray[np.floating], *, scale: int = 1) -> bytes:
    """PNG of an image of shape (C, H, W), C = 1 or 3, with values in [0, 1]; of one bit if all are black or white.

    `scale` enlarges each pixel to a square with this number of pixels on a side.
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


def enlarged_levels(images: NDArray[np.floating], scale: int) -> NDArray[np.uint8]:
    """Gray levels (or colours) of images with values in [0, 1], each pixel a square of `scale` pixels."""
    return _enlarge(_levels(images), scale)


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
