"""What the decoders of all image formats share: row blocks, alpha over black, and orientation."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["OpenedImage", "exif_orientation", "flatten", "over_black", "row_blocks", "upright"]

BLOCK_PIXELS = 65_536
"""Pixels converted at a time, so that intermediate arrays stay small beside the image."""

ORIENTATION_TAG, SHORT = 0x0112, 3
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""How pixels stored in each EXIF orientation are turned upright."""


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header has been checked and whose pixels have not been decoded.

    width, height: size in pixels as stored, before `orientation` is applied
    orientation:   value of EXIF's Orientation tag, 1 (upright) to 8
    decode_stored: gives the pixels as stored, (H, W) or (H, W, 3), over black; raises `BadImage`
    """

    width: int
    height: int
    orientation: int
    decode_stored: Callable[[], NDArray[np.uint8]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def decode(self) -> NDArray[np.uint8]:
        """Upright pixels, (H, W) or (H, W, 3). Raises `BadImage`."""
        return upright(self.decode_stored(), self.orientation)


def row_blocks(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.generic]]]:
    """The image in blocks of rows: where each block lies, and its values."""
    width, height = image.size
    step = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        yield slice(top, bottom), np.asarray(image.crop((0, top, width, bottom)))


def flatten(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3) of an image of mode L, LA, RGB, RGBA or CMYK, transparent parts over black."""
    width, height = image.size
    flat = np.empty((height, width) if image.mode in ("L", "LA") else (height, width, 3), np.uint8)
    for rows, block in row_blocks(image):
        if image.mode == "CMYK":
            flat[rows] = np.asarray(Image.fromarray(block, "CMYK").convert("RGB"))
        elif image.mode in ("LA", "RGBA"):
            colours = over_black(block[..., :-1], block[..., -1:])
            flat[rows] = colours[..., 0] if image.mode == "LA" else colours
        else:
            flat[rows] = block
    return flat


def over_black(colours: NDArray[np.generic], alpha: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Colours times alpha, both in 8 bits, rounded."""
    weighted = colours.astype(np.uint16) * alpha.astype(np.uint16)
    return ((weighted + 127) // 255).astype(np.uint8)


def exif_orientation(exif: bytes) -> int:
    """Orientation in EXIF data, 1 (upright) to 8; 1 if there is none or it cannot be read.

    Only this entry is read: Pillow's reader copies the value of every entry, and entries may share one large value.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for index in range(entries):
            entry = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * index)
            if entry[0] == ORIENTATION_TAG:
                return entry[3] if entry[1:3] == (SHORT, 1) and 1 <= entry[3] <= 8 else 1
    except struct.error:
        return 1
    return 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels (H, W, ...) stored in this EXIF orientation, turned upright."""
    turn = UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
