"""Strict reading of JPEG files (https://www.w3.org/Graphics/JPEG/itu-t81.pdf).

Pillow ignores the warnings of libjpeg, so that it decodes an image whose pixels are missing. Here simplejpeg decodes
them, which makes an error of each warning; before that, the segments and the completeness of the scans are checked.
"""

from __future__ import annotations

import re
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadImage
from service.images.pixels import OpenedImage
from vampprior.pixels import exif_orientation, flatten

__all__ = ["SIGNATURE", "open_jpeg"]

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 1_000  # before the pixels; a colour profile takes up to 255
MAX_SCANS = 40
"""A progressive JPEG has about 10 scans, and each is a pass over all pixels, however few bytes it has."""
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
START_OF_SCAN, APP0, APP1, APP14, COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
END_OF_IMAGE = 0xD9
NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # pixels contain only stuffed zeros and restart markers
COLOUR_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}  # by the number of components
COEFFICIENTS = 64  # per block


def open_jpeg(data: bytes) -> OpenedImage:
    """Check a JPEG's segments up to its pixels, without decoding those. Raises `BadImage`.

    The decoder is given only the segments that it needs.
    """
    size: tuple[int, int] | None = None
    components = b""
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
            components = data[offset + 10 : end : 3]
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
        if len(components) not in COLOUR_SPACES:
            raise BadImage("The JPEG has a kind of pixels that is not supported; save it as RGB.")
        if not _is_complete(data, offset, components):
            raise BadImage("The JPEG is damaged: some of its pixels are missing.")
        file = b"".join([*needed, memoryview(data)[offset:]])
        try:
            pixels = simplejpeg.decode_jpeg(file, COLOUR_SPACES[len(components)])
        except ValueError as error:
            if "subsampling" in str(error):
                raise BadImage("The JPEG has a chroma subsampling that is not supported; use 4:2:0.") from error
            raise BadImage("The JPEG is damaged or truncated: its pixels cannot be decoded.") from error
        if pixels.shape[-1] == 1:
            return pixels[..., 0]
        if pixels.shape[-1] == 4:  # inks are stored inverted, as Adobe's programs do
            return flatten(Image.fromarray(np.invert(pixels, out=pixels), "CMYK"))
        return pixels

    return OpenedImage(*size, exif_orientation(exif), decode)


def _is_complete(data: bytes, offset: int, components: bytes) -> bool:
    """Return True if the scans, the first of which starts at `offset`, give all bits of all coefficients.

    libjpeg takes coefficients without a scan as zero, and does not warn.

    components: identifier of each component of the frame
    """
    missing = {(component, index) for component in components for index in range(COEFFICIENTS)}
    for _ in range(MAX_SEGMENTS):
        marker, length = struct.unpack_from(">xBH", data, offset)
        content = data[offset + 4 : offset + 2 + length]
        if marker == START_OF_SCAN:
            if len(content) < 6 or len(content) != 4 + 2 * content[0]:
                return False
            first, last, bits = content[-3:]
            if bits & 15 == 0:  # no lower bits are left for a later scan
                scanned = content[1:-3:2]
                missing -= {(component, index) for component in scanned for index in range(first, last + 1)}
            if not missing:
                return True
        found = NEXT_MARKER.search(data, offset + 2 + length)
        if found is None or found.start() + 4 > len(data) or data[found.start() + 1] == END_OF_IMAGE:
            return False
        offset = found.start()
    return False
