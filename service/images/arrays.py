"""Images in: the array of a NumPy file, `.npy` or `.npz`, read a few images at a time."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.errors import BadImage, TooLarge

__all__ = ["BAD_HEADER", "BAD_ZIP", "ImageArray", "levels_of", "read_array"]

MAX_HEADER = 4096
MAX_LENGTH = 2**40
"""Length of an axis; a longer one overflows NumPy's counters."""
MAX_FORTRAN_BYTES = 2**26
"""Size of an array in Fortran order, which has to be read whole."""
ZIP_START, ZIP_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
MAX_ENTRIES = 100
"""Entries of a zip archive; `zipfile` makes an object of each as it opens the archive."""
ARCHIVED = "images.npy"
BAD_HEADER = (
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)
"""What `numpy.lib.format` raises for damaged headers, which it reads with Python's parser and tokenizer."""
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    OverflowError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)
"""What `zipfile` raises for archives that are damaged, encrypted or of an unknown kind."""


class ImageArray:
    """The images of a NumPy file's array, for a model whose images have one shape, (C, H, W).

    The array is one image or several: (N, C, H, W), (N, H, W, C), (C, H, W) or (H, W, C), and for one channel also
    (N, H, W) or (H, W). Whole numbers are levels from 0 to 255, booleans black and white, and fractions lie in [0, 1].
    Of an archive it is the array `images`, or the only one. Objects, which would have to be unpickled, are refused.
    """

    def __init__(
        self,
        stream: IO[bytes],
        dtype: np.dtype[np.generic],
        count: int,
        stored: tuple[int, ...],
        image_shape: tuple[int, int, int],
    ) -> None:
        self._stream, self._dtype = stream, dtype
        self._count = self._left = count
        self._stored, self._image_shape = stored, image_shape

    @classmethod
    def open(cls, data: bytes, image_shape: tuple[int, int, int], *, max_images: int) -> ImageArray:
        """The array of a file, of which only the header is read.

        Raises `TooLarge` for more than `max_images` images, and `BadImage` for a file that cannot be used.
        """
        stream = _open_archived(data) if data.startswith(ZIP_START) else io.BytesIO(data)
        shape, fortran_order, dtype = _read_header(stream)
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            raise BadImage(
                f"The array holds {str(dtype)[:80]} values; send whole numbers of 0 to 255, or fractions of 0 to 1."
            )
        count, stored = _layout(shape, image_shape)
        if count > max_images:
            raise TooLarge(f"The array holds {count} images; a request may have {max_images}.")
        if fortran_order:
            stream = _in_c_order(stream, shape, dtype)
        return cls(stream, dtype, count, stored, image_shape)

    def __len__(self) -> int:
        return self._count

    def read(self, count: int) -> NDArray[np.uint8]:
        """Levels of the next images, at most `count`, (n, C, H, W).

        Raises `BadImage` for values out of range, and for a file that ends before the last image or goes on after it.
        """
        count = min(count, self._left)
        self._left -= count
        data = _read_exactly(self._stream, count * math.prod(self._stored) * self._dtype.itemsize)
        if not self._left and _read(self._stream, 1):
            raise BadImage("The array has more bytes than its shape says.")
        images = np.frombuffer(data, self._dtype).reshape(count, *self._stored)
        if len(self._stored) == 3 and self._stored != self._image_shape:  # the channels come last
            images = np.moveaxis(images, -1, 1)
        return levels_of(images.reshape(count, *self._image_shape))


def read_array(data: bytes, image_shape: tuple[int, int, int], *, max_images: int) -> NDArray[np.uint8]:
    """Levels of all images of a NumPy file, (N, C, H, W); arguments and errors are those of `ImageArray.open`."""
    array = ImageArray.open(data, image_shape, max_images=max_images)
    return array.read(len(array))


def levels_of(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Levels from 0 to 255 of whole numbers, of booleans (black and white) or of fractions in [0, 1].

    Raises `BadImage` for values out of range.
    """
    if values.dtype == np.bool_:
        return np.multiply(values, 255, dtype=np.uint8)
    most = 1.0 if values.dtype.kind == "f" else 255
    # written so that NaN fails
    if not (values.min() >= 0 and values.max() <= most):
        kind = "Fractions" if values.dtype.kind == "f" else "Whole numbers"
        raise BadImage(f"{kind} in an array must lie between 0 and {most:g}.")
    if values.dtype.kind == "f":
        return np.rint(values.astype(np.float64) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(values, np.uint8)


def _open_archived(data: bytes) -> IO[bytes]:
    """The array `images` of an archive, or its only one, decompressed as it is read."""
    if data.count(ZIP_ENTRY) > MAX_ENTRIES:
        raise BadImage(f"The .npz file has more than {MAX_ENTRIES} arrays.")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = {entry.filename: entry for entry in archive.infolist()}
        if ARCHIVED not in entries and len(entries) != 1:
            raise BadImage("The .npz file must hold one array, or one that is named `images`.")
        entry = entries.get(ARCHIVED) or next(iter(entries.values()))
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadImage("The .npz file is compressed in a way that NumPy does not use; np.savez_compressed does.")
        return archive.open(entry)
    except BAD_ZIP as error:
        raise BadImage("The .npz file is damaged, encrypted or no zip archive.") from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, Fortran order and data type of the array that begins here."""
    try:
        start = io.BytesIO(stream.read(MAX_HEADER + npy.MAGIC_LEN + 4))  # headers may claim to have up to 4 GB
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(start)]
        shape, fortran_order, dtype = read(start, max_header_size=MAX_HEADER)
        stream.seek(start.tell())
    except (*BAD_HEADER, *BAD_ZIP) as error:
        raise BadImage("The array cannot be read: its .npy header is damaged or of an unknown version.") from error
    if any(abs(length) > MAX_LENGTH for length in shape):
        raise BadImage("The array has an axis that is too long.")
    return tuple(map(int, shape)), fortran_order, dtype  # a damaged header may give True as a length


def _layout(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, tuple[int, ...]]:
    """Number of images in an array of that shape, and the shape in which each is stored."""
    channels, height, width = image_shape
    layouts = [image_shape, (height, width, channels), *([(height, width)] if channels == 1 else [])]
    for layout in layouts:
        if shape == layout:
            return 1, layout
        if shape[1:] == layout and shape[0] > 0:
            return shape[0], layout
    wanted = " or ".join(str(layout).replace("(", "(N, ") for layout in layouts)
    raise BadImage(f"The array has shape {shape[:8]}; this model takes {wanted}, or one such image.")


def _in_c_order(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> IO[bytes]:
    """The values of an array in Fortran order, rearranged."""
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_FORTRAN_BYTES:
        raise BadImage("So large an array must be in C order; np.ascontiguousarray makes it one.")
    values = np.frombuffer(_read_exactly(stream, size), dtype)
    return io.BytesIO(values.reshape(shape, order="F").tobytes() + _read(stream, 1))


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = _read(stream, size)
    if len(data) != size:
        raise BadImage("The array ends before the last of its images.")
    return data


def _read(stream: IO[bytes], size: int) -> bytes:
    """At most that many bytes."""
    try:
        return stream.read(size)
    except BAD_ZIP as error:
        raise BadImage("The .npz file is damaged.") from error
