"""Image files of a folder and of the folders in it, read in threads into one array."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from hardware import available_threads
from training.data.dataset import DatasetError, Pixels
from vampprior.preparation import Preparation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Header",
    "ImageFiles",
    "UnreadableImageError",
    "count",
    "find_image_files",
    "read_headers",
    "read_pixels",
]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 50_000_000
"""Most pixels of a file, known from its header: those of large cameras, and far below a decompression bomb."""
ORIENTATION_TAG = 0x0112
GRAY_MODES = frozenset({"1", "F", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
"""Modes of Pillow without colours."""
MAX_NAMED = 5
"""Files that a message names."""

T = TypeVar("T")
R = TypeVar("R")


class UnreadableImageError(Exception):
    """A file that cannot be used as an image; the message says why."""


@dataclass(frozen=True)
class ImageFiles:
    """The prepared images of a folder.

    paths:  the files, as paths relative to the folder, in the order of the images
    images: prepared pixels, shape (N, C, H, W)
    broken: the reason for each file that could not be read
    """

    paths: Sequence[Path]
    images: Pixels
    broken: dict[Path, str]

    @classmethod
    def read(cls, folder: Path, preparation: Preparation, paths: Sequence[Path] | None = None) -> ImageFiles:
        """Read image files of a folder, by default all in it and in its folders.

        Memory holds the prepared images, and one decoded file per thread. Decoding releases Python's lock: two threads
        read 400 JPEGs of 800x600 pixels in 2.6 s, where one takes 4.1 s (two busy cores of an AMD EPYC).

        Raises `DatasetError` if there are no image files or none can be read.
        """
        paths = find_image_files(folder) if paths is None else paths
        images = np.empty((len(paths), *preparation.image_shape), np.uint8)

        def read(index: int) -> str:
            try:
                images[index] = preparation.prepare(read_pixels(folder / paths[index]))
            except UnreadableImageError as error:
                return str(error)
            return ""

        reasons = in_threads(read, range(len(paths)), "reading images")
        good = [index for index, reason in enumerate(reasons) if not reason]
        broken = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
        if not good:
            path, reason = next(iter(broken.items()))
            raise DatasetError(f"none of the {len(paths)} image files in {folder} can be read; {path}: {reason}")
        if broken:
            images = images[good]
        return cls([paths[index] for index in good], images, broken)

    @property
    def notices(self) -> list[str]:
        """A sentence on the files that were skipped, if there are any."""
        if not self.broken:
            return []
        named = "; ".join(f"{path}: {reason}" for path, reason in list(self.broken.items())[:MAX_NAMED])
        more = f"; and {len(self.broken) - MAX_NAMED} more" if len(self.broken) > MAX_NAMED else ""
        return [f"skipped {count(len(self.broken), 'file')} that cannot be read: {named}{more}"]


def find_image_files(folder: Path) -> list[Path]:
    """Paths, relative to the folder, of all image files in it and in the folders in it, sorted.

    Hidden files and folders, whose names begin with a dot, are left out. Raises `DatasetError` if there is none.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(place) / name).relative_to(folder)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    if not found:
        raise DatasetError(f"{folder} has no image files, also not in its folders; they end in {suffixes()}")
    return sorted(found)


def suffixes() -> str:
    """The known endings of image files, for messages."""
    return ", ".join(sorted(SUFFIXES))


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    format: name of its format, such as JPEG
    mode:   Pillow's mode of its pixels, such as RGB
    size:   height and width, upright
    """

    format: str
    mode: str
    size: tuple[int, int]

    @property
    def coloured(self) -> bool:
        """True unless the pixels have gray levels only."""
        return self.mode not in GRAY_MODES


def read_headers(folder: Path, paths: Sequence[Path]) -> list[Header | str]:
    """Headers of image files, given by paths relative to the folder; for a file without one, the reason."""

    def read(path: Path) -> Header | str:
        try:
            with open_image(folder / path) as image:
                upright = image.height, image.width
                turned = image.getexif().get(ORIENTATION_TAG, 1) > 4
                return Header(image.format or "", image.mode, upright[::-1] if turned else upright)
        except UnreadableImageError as error:
            return str(error)

    return in_threads(read, paths, "reading headers")


@contextmanager
def open_image(path: Path) -> Iterator[Image]:
    """An image file whose header has been read; raises `UnreadableImageError` for errors of this and of the block."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DatasetError("image files need Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"it has {image.width}x{image.height} pixels, more than the {MAX_PIXELS:,} that are decoded"
                )
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is not an image, or is of a format that Pillow does not know") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"it has more than the {MAX_PIXELS:,} pixels that are decoded") from error
    except (
        Exception
    ) as error:  # for damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Upright pixels (H, W) or (H, W, 3) of an image file; raises `UnreadableImageError`."""
    from vampprior.pixels import pixels_of

    with open_image(path) as image:
        return pixels_of(image)


def in_threads(function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Results of a function, computed in as many threads as there are processors, with a progress bar on a terminal.

    Warnings, such as Pillow's of damaged metadata, are ignored meanwhile.
    """
    screen = Console(stderr=True)
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(available_threads(), "images") as threads:
        results = threads.map(function, items)
        return list(track(results, what, len(items), console=screen, transient=True, disable=not screen.is_terminal))


def count(number: int, noun: str) -> str:
    """A number with its noun, such as `1 file` or `1,234 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
