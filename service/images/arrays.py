"""Images in: NumPy files, one array as `.npy` or in an archive as `.npz`."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.errors import BadImage, TooLarge

__all__ = ["BAD_HEADER", "BAD_ZIP", "in_model_shape", "levels_of", "read_header", "read_npy", "read_npz"]

KEY = "images"
MAX_HEADER = 4096
MAX_LENGTH = 2**40
"""Length of an axis; a longer one overflows what counts it."""
MAX_MEMBERS = 16
PIECE_BYTES = 1 << 20
ZIP_ENTRY = b"PK\x01\x02"
PLAIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
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
"""What `zipfile` raises for archives that are damaged, encrypted or of a kind that it does not know."""


def read_npy(data: bytes, image_shape: tuple[int, int, int], *, max_images: int) -> NDArray[np.uint8]:
    """Images of a `.npy` file as 8-bit levels, (N, C, H, W), for a model whose images have `image_shape`, (C, H, W).

    The array is one image or several: (N, C, H, W), (N, H, W, C), (C, H, W) or (H, W, C), and for one channel also
    (N, H, W) or (H, W). Whole numbers are levels from 0 to 255, booleans black and white, and fractions lie in [0, 1].

    Raises `TooLarge` for more than `max_images` images and `BadImage` for an array that cannot be used.
    """
    array = _read_array(data)
    images = in_model_shape(array, image_shape)
    if len(images) > max_images:
        raise TooLarge(f"The array holds {len(images)} images; a request may have {max_images}.")
    return levels_of(images)


def read_npz(data: bytes, image_shape: tuple[int, int, int], *, max_images: int) -> NDArray[np.uint8]:
    """Images of a `.npz` file, of its array `images` or of its only one; see `read_npy`."""
    if data.count(ZIP_ENTRY) > 10 * MAX_MEMBERS:  # `zipfile` makes an object of each; some may be pixels by chance
        raise BadImage(f"The .npz file has too many arrays; at most {MAX_MEMBERS} are read.")
    # each value has at most 8 bytes
    most = npy.MAGIC_LEN + MAX_HEADER + 8 * max_images * math.prod(image_shape)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            return read_npy(_read_member(archive, _choose(members), most), image_shape, max_images=max_images)
    except BAD_ZIP as error:
        raise BadImage("The .npz file is damaged or is no zip archive.") from error


def _choose(members: Sequence[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    if len(members) > MAX_MEMBERS:
        raise BadImage(f"The .npz file has {len(members)} arrays; at most {MAX_MEMBERS} are read.")
    chosen = [member for member in members if member.filename == f"{KEY}.npy"] or list(members)
    if len(chosen) != 1:
        raise BadImage(f"The .npz file must hold one array, or one that is named `{KEY}`.")
    if chosen[0].compress_type not in PLAIN or chosen[0].flag_bits & 1:
        raise BadImage("The .npz file is compressed or encrypted in a way that NumPy does not write.")
    return chosen[0]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of a member; its header may lie about their number, so they are counted as they come."""
    content = io.BytesIO()
    with archive.open(member) as stream:
        while piece := stream.read(PIECE_BYTES):
            content.write(piece)
            if content.tell() > most:
                raise TooLarge(f"The array of the .npz file has more than {most} bytes, the most for one request.")
    return content.getvalue()


def _read_array(data: bytes) -> NDArray[np.generic]:
    """The array of a `.npy` file, without a copy. Objects, which would have to be unpickled, are refused."""
    stream = io.BytesIO(data)
    shape, fortran_order, dtype = read_header(stream)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise BadImage(f"The array holds {dtype.name} values; send whole numbers of 0 to 255, or fractions of 0 to 1.")
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise BadImage(f"The array has shape {shape}, which is no image and no list of images.")
    rest = memoryview(data)[stream.tell() :]
    expected = math.prod(shape) * dtype.itemsize
    if len(rest) != expected:
        raise BadImage(f"The array should have {expected} bytes after its header and has {len(rest)}.")
    flat = np.frombuffer(rest, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, Fortran order and data type of the array that begins here. Raises `BadImage`."""
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran_order, dtype = read(stream, max_header_size=MAX_HEADER)
    except BAD_HEADER as error:
        raise BadImage("The array cannot be read: its .npy header is damaged or of an unknown version.") from error
    if any(abs(length) > MAX_LENGTH for length in shape):
        raise BadImage("The array has an axis that is too long.")
    return tuple(map(int, shape)), fortran_order, dtype  # True and False pass for lengths


def in_model_shape(array: NDArray[np.generic], image_shape: tuple[int, int, int]) -> NDArray[np.generic]:
    """The array as (N, C, H, W). Raises `BadImage` if its images are not of the model's shape."""
    channels, height, width = image_shape
    last = (height, width, channels)
    if channels == 1 and array.shape[-2:] == (height, width) and array.ndim < 4:
        return array.reshape(-1, *image_shape)
    if array.shape[-3:] == image_shape:
        return array.reshape(-1, *image_shape)
    if array.shape[-3:] == last:
        return np.moveaxis(array.reshape(-1, *last), -1, 1)
    wanted = f"(N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels})"
    if channels == 1:
        wanted += f" or (N, {height}, {width})"
    raise BadImage(f"The array has shape {array.shape}; this model takes {wanted}, or one such image.")


def levels_of(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The values as levels from 0 to 255."""
    if images.dtype == np.bool_:
        return np.multiply(images, 255, dtype=np.uint8)
    most = 1.0 if images.dtype.kind == "f" else 255
    # written so that NaN fails
    if not (images.min() >= 0 and images.max() <= most):
        kind = "Fractions" if images.dtype.kind == "f" else "Whole numbers"
        raise BadImage(f"{kind} in an array must lie between 0 and {most:g}.")
    if images.dtype.kind == "f":
        return np.rint(images.astype(np.float64) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(images, np.uint8)
