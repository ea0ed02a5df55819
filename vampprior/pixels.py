"""Decoded pixels of image files: 8 bits, transparent parts over black, upright. Needs Pillow.

Trainer and server share these steps, so that a model sees an image in the same way in both. The convention for pixels
is uint8 of shape (H, W) for gray and (H, W, 3) for colour.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["exif_orientation", "flatten", "over_black", "pixels_of", "row_blocks", "scale_16_bits", "upright"]

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
FLAT_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")
"""Modes that `flatten` takes."""


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of an image that Pillow has opened, of its first frame if it has several.

    Palettes, CMYK and other colour spaces become RGB, one bit becomes 0 or 255, and 16-bit gray is rounded to 8 bits.

    Raises:
        OSError, SyntaxError, ValueError: If the pixels cannot be decoded, as Pillow raises them; `ValueError` also for
            pixels that are floating-point numbers, whose range is unknown.

    Example:
        >>> half_transparent = Image.new("RGBA", (4, 2), (255, 255, 255, 128))
        >>> pixels_of(half_transparent).shape, int(pixels_of(half_transparent)[0, 0, 0])
        ((2, 4, 3), 128)
    """
    image.load()
    orientation = exif_orientation(image.info.get("exif", b""))  # Pillow has turned TIFF files upright already
    return upright(_stored_pixels(image), orientation)


def _stored_pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        return scale_16_bits(image, [transparent] if isinstance(transparent, int) else [])
    if image.mode in ("1", "L") and transparent is not None:
        return flatten(image.convert("LA"))
    if image.mode not in ("LA", "RGBA") and image.has_transparency_data:
        return flatten(image.convert("RGBA"))
    if image.mode not in FLAT_MODES:
        return flatten(image.convert("L" if image.mode == "1" else "RGB"))
    return flatten(image)


def row_blocks(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.generic]]]:
    """The image in blocks of rows: the rows of each block, and its values."""
    width, height = image.size
    step = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        yield slice(top, bottom), np.asarray(image.crop((0, top, width, bottom)))


def flatten(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3) of an image of mode L, LA, RGB, RGBA or CMYK, with transparent parts over black."""
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


def scale_16_bits(image: Image.Image, transparent: list[int] | tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """Gray levels of 0 to 65,535 rounded to 8 bits, shape (H, W); `transparent` levels become black."""
    pixels = np.empty((image.height, image.width), np.uint8)
    for rows, block in row_blocks(image):
        levels = block.clip(0, 65535).astype(np.uint32)
        for level in transparent:
            levels[levels == level] = 0
        pixels[rows] = (levels * 255 + 32767) // 65535
    return pixels


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
