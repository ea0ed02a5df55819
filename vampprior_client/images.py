"""Images as they are sent: files, bytes, Pillow images and NumPy arrays as named image files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vampprior_client.errors import InvalidImage

__all__ = ["File", "Image", "Images", "batches", "to_pillow"]

Image = str | os.PathLike[str] | bytes | PIL.Image.Image | NDArray[Any]
"""A path, the bytes of a PNG, JPEG or WebP file, a Pillow image, or an array of shape (H, W) or (C, H, W).

Arrays hold values in [0, 1], or levels from 0 to 255 if they are uint8."""
Images = Image | Iterable[Image]
"""One image or several; an array of shape (N, C, H, W) is N images."""


class File(NamedTuple):
    """An image file that is sent."""

    name: str
    content: bytes


def batches(images: Images, size: int | None) -> Iterator[list[File]]:
    """Files of the images, `size` at a time, or for None all at once. Each is read only when its batch is wanted.

    Raises:
        InvalidImage: If an input is not an image.
        OSError: If a file cannot be read.
    """
    files = (_file(image, index) for index, image in enumerate(_each(images)))
    while batch := list(islice(files, size)):
        yield batch


def to_pillow(image: NDArray[np.floating]) -> PIL.Image.Image:
    """A Pillow image of values in [0, 1] of shape (H, W) or (C, H, W) with one or three channels.

    Example:
        >>> to_pillow(np.ones((3, 20, 28))).size
        (28, 20)
    """
    return _pillow(image)


def _each(images: Images) -> Iterable[Image]:
    if isinstance(images, (str, bytes, os.PathLike, PIL.Image.Image)):
        return [images]
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    return images


def _file(image: Image, index: int) -> File:
    if isinstance(image, bytes):
        return File(f"image {index}", image)
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return File(path.name, path.read_bytes())
    if isinstance(image, np.ndarray):
        image = _pillow(image)
    if not isinstance(image, PIL.Image.Image):
        raise InvalidImage(f"image {index} is a {type(image).__name__}, not a path, bytes, a Pillow image or an array")
    return File(f"image {index}", _png(image))


def _png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pillow(array: NDArray[Any]) -> PIL.Image.Image:
    planes = array[None] if array.ndim == 2 else array
    if planes.ndim != 3 or len(planes) not in (1, 3):
        raise InvalidImage(
            f"an array of shape {array.shape} is not an image: the shape of one is (H, W), (1, H, W) or (3, H, W), "
            "and of several (N, C, H, W)"
        )
    levels = np.ascontiguousarray(_levels(planes).transpose(1, 2, 0))
    return PIL.Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if not (np.issubdtype(values.dtype, np.floating) or values.dtype == np.bool_):
        raise InvalidImage(f"an array of {values.dtype} is not an image: send uint8 levels, or values in [0, 1]")
    if not ((values >= 0) & (values <= 1)).all():  # also false for NaN
        raise InvalidImage("the array has values outside [0, 1]; send levels from 0 to 255 as uint8")
    return (values.astype(np.float64) * 256.0).clip(0.0, 255.0).astype(np.uint8)
