"""Strict reading of PNG files (https://www.w3.org/TR/png-3/).

Pillow alone is too lenient: it makes missing pixels black, accepts palettes after the pixels or of an odd length, and
unpacks compressed texts. Here the chunks are checked and the pixels are inflated once, to exactly the length that the
header implies; Pillow then undoes the filters and the interlacing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadImage
from service.images.pixels import OpenedImage
from vampprior.pixels import exif_orientation, flatten, row_blocks, scale_16_bits

__all__ = ["SIGNATURE", "open_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
MODES = {  # Pillow's mode and raw mode for each colour type and depth; "P" leaves sample values as they are
    (GRAY, 1): ("P", "P;1"),
    (GRAY, 2): ("P", "P;2"),
    (GRAY, 4): ("P", "P;4"),
    (GRAY, 8): ("P", "P"),
    (GRAY, 16): ("I;16", "I;16B"),
    (RGB, 8): ("RGB", "RGB"),
    (RGB, 16): ("RGB", "RGB;16B"),
    (PALETTE, 1): ("P", "P;1"),
    (PALETTE, 2): ("P", "P;2"),
    (PALETTE, 4): ("P", "P;4"),
    (PALETTE, 8): ("P", "P"),
    (GRAY_ALPHA, 8): ("LA", "LA"),
    (GRAY_ALPHA, 16): ("RGBA", "LA;16B"),
    (RGB_ALPHA, 8): ("RGBA", "RGBA"),
    (RGB_ALPHA, 16): ("RGBA", "RGBA;16B"),
}
PASSES = {  # left, top, step right and step down of each pass: one, or the seven of Adam7
    0: ((0, 0, 1, 1),),
    1: ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
}
MAX_CHUNKS = 10_000
"""Encoders write one chunk per 4 KiB or more; 10,000 chunks are read in 20 ms."""
PIECE_BYTES = 65_536  # inflated at a time


def open_png(data: bytes) -> OpenedImage:
    """Check a PNG's chunks without decoding its pixels. Raises `BadImage`.

    The image keeps only the position of its pixels in `data`, since a request may have many images of many chunks.
    """
    chunks = list(_chunks(data))
    names = [name for name, _, _ in chunks]
    if names[:1] != [b"IHDR"] or names.count(b"IHDR") != 1 or len(chunks[0][1]) != 13:
        raise BadImage("The PNG is damaged: it must start with one header.")
    png = _Png(data, _first_pixels(chunks), *struct.unpack(">IIBBBBB", chunks[0][1]))
    png.check_header()
    for position, (name, content, _) in enumerate(chunks):
        if name in (b"PLTE", b"tRNS") and (names.count(name) > 1 or position > names.index(b"IDAT")):
            raise BadImage(f"The PNG is damaged: it may have one {name.decode()} chunk, before its pixels.")
        if name == b"PLTE":
            png.set_palette(bytes(content))
        elif name == b"tRNS":
            png.set_transparency(bytes(content))
    if png.colour_type == PALETTE and not png.palette:
        raise BadImage("The PNG is damaged: its palette is missing.")
    exif = next((bytes(content) for name, content, _ in chunks if name == b"eXIf"), b"")
    return OpenedImage(png.width, png.height, exif_orientation(exif), png.decode)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Name, content and offset of each chunk, with its checksum verified."""
    view = memoryview(data)
    offset = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if len(data) < offset + 12:
            raise BadImage("The PNG is truncated: its end is missing.")
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if len(data) < end:
            raise BadImage("The PNG is truncated: its end is missing.")
        if zlib.crc32(view[offset + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise BadImage("The PNG is damaged: a checksum does not match.")
        if name == b"acTL":
            raise BadImage("The PNG is animated; send a single image.")
        if name == b"IEND":
            return
        if name not in (b"IHDR", b"PLTE", b"IDAT") and not name[0] & 32:  # a capital letter marks a critical chunk
            raise BadImage("The PNG is damaged: it has a critical chunk that no standard defines.")
        yield name, view[offset + 8 : end - 4], offset
        offset = end
    raise BadImage(f"The PNG has more than {MAX_CHUNKS} chunks; save it again.")


def _first_pixels(chunks: list[tuple[bytes, memoryview, int]]) -> int:
    """Offset of the first of the IDAT chunks, which must follow each other."""
    positions = [position for position, (name, _, _) in enumerate(chunks) if name == b"IDAT"]
    if not positions:
        raise BadImage("The PNG is empty: it has no pixels.")
    if positions[-1] - positions[0] != len(positions) - 1:
        raise BadImage("The PNG is damaged: other chunks stand between its pixels.")
    return chunks[positions[0]][2]


@dataclass
class _Png:
    """File, header fields and colours of a PNG.

    first_pixels: offset of the first IDAT chunk in `data`
    palette:      colours of palette entries, 3 bytes each
    alpha:        alpha of the first palette entries
    transparent:  the one gray level or colour that is fully transparent, in samples of the PNG's depth
    """

    data: bytes
    first_pixels: int
    width: int
    height: int
    depth: int
    colour_type: int
    compression: int
    filter_method: int
    interlace: int
    palette: bytes = b""
    alpha: bytes = b""
    transparent: tuple[int, ...] = ()

    def check_header(self) -> None:
        """Raise `BadImage` for a header that the standard does not allow."""
        known = (self.colour_type, self.depth) in MODES and self.interlace in PASSES
        if not known or self.compression or self.filter_method:
            raise BadImage("The PNG is damaged: its header has values that the standard does not allow.")
        if self.width == 0 or self.height == 0:
            raise BadImage("The PNG is empty: its width or height is zero.")

    def set_palette(self, content: bytes) -> None:
        """Take the content of the PLTE chunk; only images of colour may have one."""
        most = 2**self.depth if self.colour_type == PALETTE else 256
        if self.colour_type in (GRAY, GRAY_ALPHA) or not 3 <= len(content) <= 3 * most or len(content) % 3:
            raise BadImage("The PNG is damaged: its palette has a length that its header does not allow.")
        self.palette = content

    def set_transparency(self, content: bytes) -> None:
        """Take the content of the tRNS chunk, which must follow the palette."""
        if self.colour_type == PALETTE and 1 <= len(content) <= len(self.palette) // 3:
            self.alpha = content
        elif self.colour_type in (GRAY, RGB) and len(content) == 2 * CHANNELS[self.colour_type]:
            self.transparent = struct.unpack(f">{len(content) // 2}H", content)
        else:
            raise BadImage("The PNG is damaged: its transparent colours do not fit its header.")

    def decode(self) -> NDArray[np.uint8]:
        """Pixels (H, W) if they are gray, else (H, W, 3), over black. Raises `BadImage`."""
        stream = self._inflate()
        image = self._unfilter(stream, *MODES[self.colour_type, self.depth])
        if image.mode == "P":
            del stream
            return self._look_up(image)
        if self.depth == 16 and self.colour_type == GRAY:
            return scale_16_bits(image, self.transparent)
        if self.depth == 16 and self.colour_type == GRAY_ALPHA:
            return flatten(image)[..., 0].copy()
        if self.transparent:
            low = self._unfilter(stream, "RGB", "RGB;16L") if self.depth == 16 else None
            return self._blacken(image, low)
        del stream
        return flatten(image)

    def _inflate(self) -> bytearray:
        """The filtered pixels as an uncompressed zlib stream, which Pillow's decoder reads.

        They must be as many as the header implies, since Pillow makes missing pixels black.
        """
        inflate, store = zlib.decompressobj(), zlib.compressobj(0)
        stream = bytearray()
        missing = self._filtered_bytes()
        try:
            for piece in self._compressed_pieces():
                filtered = inflate.decompress(piece, missing + 1)
                missing -= len(filtered)
                if missing < 0:
                    raise BadImage("The PNG is damaged: it has more pixels than its header says.")
                stream += store.compress(filtered)
        except zlib.error as error:
            raise BadImage("The PNG is damaged: its pixels cannot be decompressed.") from error
        if missing or not inflate.eof:
            raise BadImage("The PNG is damaged: some of its pixels are missing.")
        stream += store.flush()
        return stream

    def _compressed_pieces(self) -> Iterator[memoryview]:
        """The contents of the IDAT chunks, whose lengths `open_png` has checked."""
        view, offset = memoryview(self.data), self.first_pixels
        while self.data.startswith(b"IDAT", offset + 4):
            start = offset + 8
            end = start + int.from_bytes(view[offset:][:4])
            for piece in range(start, end, PIECE_BYTES):
                yield view[piece : min(end, piece + PIECE_BYTES)]
            offset = end + 4

    def _filtered_bytes(self) -> int:
        """Length of the pixels once inflated: each row of each pass has a byte for its filter."""
        total = 0
        for left, top, right, down in PASSES[self.interlace]:
            row_bits = -((left - self.width) // right) * self.depth * CHANNELS[self.colour_type]
            rows = -((top - self.height) // down)
            total += rows * (1 + (row_bits + 7) // 8) if row_bits > 0 and rows > 0 else 0
        return total

    def _unfilter(self, stream: bytearray, mode: str, raw_mode: str) -> Image.Image:
        try:
            return Image.frombytes(mode, (self.width, self.height), stream, "zip", raw_mode, self.interlace)
        except ValueError as error:  # a filter that does not exist
            raise BadImage("The PNG is damaged: its pixels cannot be decoded.") from error

    def _look_up(self, image: Image.Image) -> NDArray[np.uint8]:
        """Gray levels or palette colours of sample values of at most 8 bits."""
        if self.colour_type == GRAY:
            top = 2**self.depth - 1
            table = np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8)
            table[[level for level in self.transparent if level <= top]] = 0
        else:
            colours = np.frombuffer(self.palette, np.uint8).reshape(-1, 3).astype(np.uint16)
            alpha = np.frombuffer(self.alpha.ljust(len(colours), b"\xff"), np.uint8)
            table = ((colours * alpha[:, None] + 127) // 255).astype(np.uint8)
        pixels = np.empty((self.height, self.width, *table.shape[1:]), np.uint8)
        for rows, block in row_blocks(image):
            if block.max() >= len(table):
                raise BadImage("The PNG is damaged: its pixels have colours that its palette lacks.")
            pixels[rows] = table[block]
        return pixels

    def _blacken(self, image: Image.Image, low: Image.Image | None) -> NDArray[np.uint8]:
        """Colours with the transparent one in black; `low` holds the lower 8 bits of each sample of 16 bits."""
        pixels = flatten(image)
        transparent = np.array(self.transparent)
        for rows, block in row_blocks(image):
            samples = block.astype(np.uint16)
            if low is not None:
                samples = samples << 8 | np.asarray(low.crop((0, rows.start, self.width, rows.stop)))
            pixels[rows][(samples == transparent).all(axis=-1)] = 0
        return pixels
