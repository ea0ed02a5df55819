"""PNG in, PNG and npy out. Pure functions, so that they may run in any thread."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadImage, TooLarge, UnsupportedMediaType, WrongSize

__all__ = ["contact_sheet", "decode_png", "encode_npy", "encode_png", "fit_to_model", "sheet_png", "sheet_size"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
PASSES = {  # left, top, step right and step down of the passes in which pixels come: all at once, or interlaced (Adam7)
    0: ((0, 0, 1, 1),),
    1: ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
}
MAX_CHUNKS = 100_000  # encoders write one per 4 to 64 KiB
ROWS_AT_ONCE = 256  # of a PNG that is written, so that a large one is not held twice
GAP = 64  # dark gray between the images of a contact sheet


def decode_png(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Pixels of a PNG: (H, W) if it is gray, (H, W, 3) if it has colours or a palette.

    One bit becomes 0 or 255, 16 bits are scaled to 8, and what is transparent is laid over black, the ground on
    which models see their images.

    Raises `UnsupportedMediaType` for what is not a PNG, `TooLarge` for more than `max_pixels` pixels (from the
    header, before any is decoded), and `BadImage` for a PNG that is damaged, animated or empty.
    """
    if not data:
        raise BadImage("The image is empty; send the bytes of a PNG file.")
    if not data.startswith(SIGNATURE):
        raise UnsupportedMediaType("The upload is not a PNG; convert it to PNG first.")
    png = _read_png(data)
    if png.width * png.height > max_pixels:
        raise TooLarge(f"The image has {png.width} x {png.height} pixels, more than the {max_pixels} that are allowed.")
    try:
        if len(zlib.decompressobj().decompress(png.pixels, png.pixel_bytes)) < png.pixel_bytes:
            raise BadImage("The PNG is damaged: some of its pixels are missing.")  # Pillow would make them black
        with Image.open(io.BytesIO(png.essence), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGBA") if image.mode == "P" else image)
    except BadImage:
        raise
    except Exception as error:  # Pillow raises anything from OSError to SyntaxError for a damaged file
        raise BadImage("The PNG is damaged: its pixels cannot be decoded.") from error
    return _flatten(png, pixels)


def fit_to_model(
    pixels: NDArray[np.uint8], image_shape: tuple[int, int, int], *, resize: bool, invert: bool
) -> NDArray[np.uint8]:
    """Pixels of `decode_png` in the shape of a model's images, (C, H, W).

    A model of one channel sees colours as luma (ITU-R 601), one of three sees gray three times. `resize` stretches
    the image to the model's size, averaging over areas; without it a wrong size raises `WrongSize`. Then `invert`
    swaps dark and light.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise BadImage(f"The model takes images of {channels} channels, which no PNG holds.")
    if pixels.shape[:2] != (height, width) and not resize:
        raise WrongSize(got=(pixels.shape[0], pixels.shape[1]), expected=(height, width))
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
    header = struct.pack(">IIBBBBB", width, height, depth, GRAY if channels == 1 else RGB, 0, 0, 0)
    compressor = zlib.compressobj(1)  # fast: the default takes several times as long for a few per cent
    pixels = []
    for top in range(0, height, ROWS_AT_ONCE):
        block = rows[top : top + ROWS_AT_ONCE]
        filtered = np.zeros((len(block), 1 + block.shape[1]), np.uint8)  # each row after its filter's number, 0: none
        filtered[:, 1:] = block
        pixels.append(compressor.compress(filtered.data))
    pixels.append(compressor.flush())
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(pixels)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: its length, name, data and checksum."""
    return struct.pack(">I", len(data)) + name + data + zlib.crc32(name + data).to_bytes(4)


@dataclass(frozen=True)
class _Png:
    """What a PNG says of itself, and the chunks that carry its pixels."""

    width: int
    height: int
    depth: int
    colour_type: int
    transparent: bytes | None  # the one gray or colour that is fully transparent, 16 bits a channel
    pixels: bytes  # filtered and deflated
    pixel_bytes: int  # once inflated
    essence: bytes


def _read_png(data: bytes) -> _Png:
    """Check a PNG's header and chunks and keep those that carry pixels.

    Pillow never sees the others: texts and colour profiles are compressed and a favourite of decompression bombs, and
    a second header would contradict the size that was checked.
    """
    chunks = _pixel_chunks(data)
    names = [name for name, _ in chunks]
    header = chunks[0][1]
    if names[0] != b"IHDR" or names.count(b"IHDR") != 1 or len(header) != 25:
        raise BadImage("The PNG is damaged: it must start with one header.")
    width, height, depth, colour_type, _, _, interlace = struct.unpack_from(">IIBBBBB", header, 8)
    if colour_type not in CHANNELS or interlace not in PASSES:
        raise BadImage("The PNG is damaged: its header makes no sense.")
    if width == 0 or height == 0:
        raise BadImage("The PNG is empty: its width or height is zero.")
    if b"IDAT" not in names:
        raise BadImage("The PNG is empty: it has no pixels.")
    if colour_type == PALETTE and b"PLTE" not in names:
        raise BadImage("The PNG is damaged: its palette is missing.")
    transparent = None
    if colour_type in (GRAY, RGB):
        # left to `_flatten`, since Pillow does not scale a transparent gray of 2 or 4 bits
        transparent = next((chunk[8:-4] for name, chunk in chunks if name == b"tRNS"), None)
        chunks = [(name, chunk) for name, chunk in chunks if name != b"tRNS"]
        if transparent is not None and len(transparent) != (2 if colour_type == GRAY else 6):
            raise BadImage("The PNG is damaged: its transparent colour cannot be read.")
    pixel_bytes = 0
    for left, top, right, down in PASSES[interlace]:
        row_bits, rows = -((left - width) // right) * depth * CHANNELS[colour_type], -((top - height) // down)
        pixel_bytes += rows * (1 + (row_bits + 7) // 8) if row_bits > 0 and rows > 0 else 0
    pixels = b"".join(chunk[8:-4] for name, chunk in chunks if name == b"IDAT")
    essence = SIGNATURE + b"".join(chunk for _, chunk in chunks)
    return _Png(width, height, depth, colour_type, transparent, pixels, pixel_bytes, essence)


def _pixel_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and bytes of the chunks that carry pixels, with their checksums verified, which Pillow does not for all."""
    chunks = []
    offset = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if len(data) < offset + 12:
            raise BadImage("The PNG is truncated: its end is missing.")
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if len(data) < end:
            raise BadImage("The PNG is truncated: its end is missing.")
        if zlib.crc32(data[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise BadImage("The PNG is damaged: a checksum does not match.")
        if name == b"acTL":
            raise BadImage("The PNG is animated; send a single image.")
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            chunks.append((name, data[offset:end]))
        if name == b"IEND":
            return chunks
        offset = end
    raise BadImage(f"The PNG has more than {MAX_CHUNKS} chunks; save it again.")


def _flatten(png: _Png, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Decoded pixels in 8 bits, (H, W) or (H, W, 3), laid over black."""
    if pixels.shape[:2] != (png.height, png.width):
        raise BadImage("The PNG is damaged: its pixels do not fit its header.")
    transparent = None if png.transparent is None else np.frombuffer(png.transparent, ">u2")
    if png.colour_type == GRAY:
        levels = 2**png.depth - 1
        # one bit comes as booleans, 16 bits as they are, and the depths between scaled to 8 bits
        gray = pixels.astype(np.uint32) if png.depth in (1, 16) else pixels.astype(np.uint32) * levels // 255
        if transparent is not None:
            gray[gray == transparent] = 0
        scaled: NDArray[np.uint8] = ((gray * 255 + levels // 2) // levels).astype(np.uint8)
        return scaled
    if png.colour_type == RGB:
        colours = pixels.astype(np.uint8)
        if transparent is not None:
            # of 16 bits Pillow keeps the upper eight
            colours[(colours == transparent >> (8 if png.depth == 16 else 0)).all(axis=-1)] = 0
        return colours
    weighted = pixels[..., :-1].astype(np.uint32) * pixels[..., -1:].astype(np.uint32)
    flat: NDArray[np.uint8] = ((weighted + 127) // 255).astype(np.uint8)
    return flat[..., 0] if png.colour_type == GRAY_ALPHA else flat
