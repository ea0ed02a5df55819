"""Images in NumPy's `.npy` format, or in an `.npz` archive of it, read a few at a time."""

from __future__ import annotations

import io
import math
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.errors import BadImage, TooLarge
from service.images.arrays import BAD_HEADER, BAD_ZIP, in_model_shape, levels_of, read_header

__all__ = ["ImageArray"]

ZIP_START, ZIP_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
MAX_ENTRIES = 100
"""Entries of a zip archive; each becomes an object before anything can be asked of it."""
ARCHIVED = "images.npy"


class ImageArray:
    """The array of a NumPy file, from which images are read a few at a time; see `service.images.read_npy`."""

    def __init__(
        self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic], image_shape: tuple[int, int, int]
    ) -> None:
        one = len(shape) < 3 or (len(shape) == 3 and (image_shape[0] > 1 or shape[1:] != image_shape[1:]))
        self._count, self._shape = (1, shape) if one else (shape[0], shape[1:])
        self._file, self._dtype, self._image_shape = file, dtype, image_shape

    @classmethod
    def open(cls, body: bytes, image_shape: tuple[int, int, int], *, max_images: int) -> ImageArray:
        """The array of a file, for a model whose images have `image_shape`; only its header is read.

        Raises `TooLarge` for more than `max_images` images, and `BadImage` for a file that cannot be used.
        """
        try:
            file = _open_archived(body) if body.startswith(ZIP_START) else io.BytesIO(body)
            if npy.read_magic(file) != (1, 0):  # later versions have headers of up to 4 GB
                raise ValueError("only version 1.0 of the format is read")
            file.seek(0)
            shape, fortran, dtype = read_header(file)
        except (*BAD_HEADER, *BAD_ZIP) as error:
            raise BadImage(f"The array cannot be read: {str(error)[:200]}.") from error
        if fortran and len(shape) > 1:
            raise BadImage("The array of a stream must be in C order; np.ascontiguousarray makes one.")
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            raise BadImage(f"The array holds {str(dtype)[:80]}; send levels of 0 to 255, or fractions of 0 to 1.")
        if not 2 <= len(shape) <= 4 or min(shape) < 1:
            raise BadImage(f"The array has shape {shape[:8]}, which is no image and no list of images.")
        array = cls(file, shape, dtype, image_shape)
        if math.prod(array._shape) != math.prod(image_shape):
            raise BadImage(f"The array has shape {shape}; this model takes images of shape {image_shape}.")
        if len(array) > max_images:
            raise TooLarge(f"The array holds {len(array)} images; a request may have {max_images}.")
        return array

    def __len__(self) -> int:
        return self._count

    def read(self, count: int) -> NDArray[np.uint8]:
        """Levels of the next `count` images, (count, C, H, W).

        Raises `BadImage` for a file that ends too early, and values out of range.
        """
        size = count * math.prod(self._shape) * self._dtype.itemsize
        try:
            data = self._file.read(size)
        except BAD_ZIP as error:
            raise BadImage(f"The array cannot be read: {str(error)[:200]}.") from error
        if len(data) != size:
            raise BadImage("The array ends before the last of its images.")
        values = np.frombuffer(data, self._dtype).reshape(count, *self._shape)
        return levels_of(in_model_shape(values, self._image_shape))


def _open_archived(body: bytes) -> IO[bytes]:
    """The array named `images` of an archive, or its only one, decompressed as it is read."""
    if body.count(ZIP_ENTRY) > MAX_ENTRIES:
        raise ValueError(f"the archive has more than {MAX_ENTRIES} entries")
    archive = zipfile.ZipFile(io.BytesIO(body))
    entries = {entry.filename: entry for entry in archive.infolist()}
    if ARCHIVED not in entries and len(entries) != 1:
        raise ValueError(f"the archive must have one array, or one named `images`, not {sorted(entries)[:5]}")
    entry = entries.get(ARCHIVED) or next(iter(entries.values()))
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("the archive may be compressed by deflate alone, as np.savez_compressed does")
    return archive.open(entry)
