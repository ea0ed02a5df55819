"""Reading of WebP files: the container is checked here, Pillow decodes the pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import BadImage
from service.images.pixels import OpenedImage
from vampprior.pixels import exif_orientation, flatten

__all__ = ["is_webp", "open_webp"]

MAX_CHUNKS = 1_000
ANIMATION = 2  # flag of the extended header


def is_webp(data: bytes) -> bool:
    """Return True if the data starts like a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def open_webp(data: bytes) -> OpenedImage:
    """Check a WebP's chunks without decoding its pixels. Raises `BadImage`."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < max(end, 30):  # the shortest header of pixels is 10 bytes long
        raise BadImage("The WebP is truncated: its end is missing.")
    size = _size(data)
    if 0 in size:
        raise BadImage("The WebP is empty: its width or height is zero.")
    if data[12:16] == b"VP8X" and data[20] & ANIMATION:
        raise BadImage("The WebP is animated; send a single image.")

    def decode() -> NDArray[np.uint8]:
        try:
            with WebPImageFile(io.BytesIO(data)) as image:
                if image.size != size or image.n_frames != 1 or image.mode not in ("RGB", "RGBA"):
                    raise BadImage("The WebP is damaged: its pixels do not fit its header.")
                image.load()
                return flatten(image)
        except BadImage:
            raise
        except Exception as error:  # Pillow raises anything from OSError to SyntaxError for a damaged file
            raise BadImage("The WebP is damaged: its pixels cannot be decoded.") from error

    return OpenedImage(*size, exif_orientation(_exif(data, end)), decode)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, from the header of the first chunk: lossy, lossless or extended."""
    name = data[12:16]
    if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    raise BadImage("The WebP is damaged: its header cannot be read.")


def _exif(data: bytes, end: int) -> bytes:
    """Content of the EXIF chunk; empty if there is none among the first `MAX_CHUNKS`."""
    offset = 12
    for _ in range(MAX_CHUNKS):
        if offset + 8 > end:
            break
        name, length = struct.unpack_from("<4sI", data, offset)
        if name == b"EXIF":
            return data[offset + 8 : min(end, offset + 8 + length)]
        offset += 8 + length + length % 2
    return b""
