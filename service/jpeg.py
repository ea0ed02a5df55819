"""Reading of JPEG files: the segments before the pixels are checked here, Pillow decodes the pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import BadImage
from service.pixels import OpenedImage, exif_orientation, flatten

__all__ = ["SIGNATURE", "open_jpeg"]

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 1_000  # before the pixels; a colour profile takes up to 255
MAX_SCANS = 40
"""A progressive JPEG has about 10 scans, and each is a pass over all pixels, however few bytes it has."""
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
START_OF_SCAN, APP0, APP1, APP14, COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}


def open_jpeg(data: bytes) -> OpenedImage:
    """Check a JPEG's segments up to its pixels, without decoding those. Raises `BadImage`.

    Pillow is given only what decoding needs: it keeps every other segment in memory, and reads all of EXIF.
    """
    size: tuple[int, int] | None = None
    exif = b""
    needed = [SIGNATURE[:2]]
    offset = 2
    for _ in range(MAX_SEGMENTS):
        if len(data) < offset + 4:
            raise BadImage("The JPEG is truncated: its end is missing.")
        prefix, marker, length = struct.unpack_from(">BBH", data, offset)
        if prefix == marker == 0xFF:  # a fill byte
            offset += 1
            continue
        end = offset + 2 + length
        if prefix != 0xFF or marker in WITHOUT_LENGTH or length < 2:
            raise BadImage("The JPEG is damaged: its segments cannot be read.")
        if len(data) < end:
            raise BadImage("The JPEG is truncated: its end is missing.")
        if marker == START_OF_SCAN:
            break
        if marker in START_OF_FRAME:
            if size is not None or length < 8:
                raise BadImage("The JPEG is damaged: it must have one frame.")
            height, width = struct.unpack_from(">HH", data, offset + 5)
            size = width, height
        content = data[offset + 4 : end]
        if marker == APP1 and not exif and content.startswith(b"Exif\0\0"):
            exif = content
        if not APP0 < marker < APP14 and marker not in (APP14 + 1, COMMENT):
            needed.append(data[offset:end])
        offset = end
    else:
        raise BadImage(f"The JPEG has more than {MAX_SEGMENTS} segments before its pixels; save it again.")
    if size is None:
        raise BadImage("The JPEG is damaged: its frame is missing.")
    if 0 in size:
        raise BadImage("The JPEG is empty: its width or height is zero.")
    if data.count(b"\xff\xda", offset) > MAX_SCANS:
        raise BadImage(f"The JPEG has more than {MAX_SCANS} scans; save it as a baseline JPEG.")

    def decode() -> NDArray[np.uint8]:
        try:
            with JpegImageFile(io.BytesIO(b"".join([*needed, memoryview(data)[offset:]]))) as image:
                if image.size != size or image.mode not in ("L", "RGB", "CMYK"):
                    raise BadImage("The JPEG has a kind of pixels that is not supported; save it as RGB.")
                image.load()
                return flatten(image)
        except BadImage:
            raise
        except Exception as error:  # Pillow raises anything from OSError to SyntaxError for a damaged file
            raise BadImage("The JPEG is damaged or truncated: its pixels cannot be decoded.") from error

    return OpenedImage(*size, exif_orientation(exif), decode)
