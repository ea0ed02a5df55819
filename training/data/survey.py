"""A look at a folder of images or a file of arrays: what is in it, and how it is best prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.dataset import DatasetError, Pixels
from training.data.image_arrays import read_image_arrays
from training.data.image_files import Header, ImageFiles, count, find_image_files, read_headers
from training.data.own_images import Wanted
from vampprior.preparation import Mode, Preparation

__all__ = ["Survey", "look_at"]

SAMPLE = 300
"""Images whose pixels decide about the mode."""
DEFAULT_SIDE, MAX_SIDE, MIN_SIDE = 32, 64, 8
"""Side to which images are brought, longest side that is kept, and shortest side that a model takes."""
COLOUR_DIFFERENCE = 4.0
"""Mean difference of the channels, in levels, from which images have colours."""
EXTREME, MOSTLY = 32, 0.85
"""Levels from black or white, and the share of pixels within them, that make images black and white."""


@dataclass(frozen=True)
class Survey:
    """What a folder or a file holds.

    lines:  the findings, as sentences
    wanted: how the images are best prepared
    """

    lines: Sequence[str]
    wanted: Wanted


def look_at(path: Path, size: tuple[int, int] | None = None, mode: Mode | None = None) -> Survey:
    """Look at a folder of image files, or at a file of arrays.

    size, mode: what the user has chosen; None for what suits the images

    Raises `DatasetError` if there are no images, or none can be read.
    """
    if not path.is_dir():
        return _look_at_arrays(path, size, mode)
    paths = find_image_files(path)
    headers = [header for header in read_headers(path, paths) if isinstance(header, Header)]
    if not headers:
        raise DatasetError(f"none of the {len(paths)} image files in {path} can be read")
    size = size or _suitable_size([header.size for header in headers])
    lines = [f"{count(len(paths), 'image file')}: {_counts(header.format for header in headers)}", _sizes(headers)]
    lines.append(f"pixels: {_counts('colour' if header.coloured else 'gray' for header in headers)}")
    if mode is None:
        some = paths[:: -(-len(paths) // SAMPLE)]
        mode = suitable_mode(ImageFiles.read(path, Preparation(size, "rgb"), some).images)
    return Survey(lines, Wanted(size, mode))


def _look_at_arrays(path: Path, size: tuple[int, int] | None, mode: Mode | None) -> Survey:
    arrays = read_image_arrays(path)
    lines = [f"array {name}: {count(len(images), 'image')}" for name, images in arrays.items()]
    images = next(iter(arrays.values()))
    channels, height, width = images.shape[1:]
    lines.append(f"size: {width}x{height}, {count(channels, 'channel')}")
    sample = images[:: -(-len(images) // SAMPLE)]
    mode = mode or suitable_mode(sample * np.uint8(255) if images.max() <= 1 else sample)
    return Survey(lines, Wanted(size or _suitable_size([(height, width)]), mode))


def suitable_mode(images: Pixels) -> Mode:
    """The mode that suits images (N, C, H, W): `rgb` with colours, `binary` if nearly all pixels are black or white."""
    levels = images.astype(np.int16)
    if float(np.mean(levels.max(axis=1) - levels.min(axis=1))) >= COLOUR_DIFFERENCE:
        return "rgb"
    extreme = (levels < EXTREME) | (levels >= 256 - EXTREME)
    return "binary" if float(extreme.mean()) >= MOSTLY else "gray"


def _suitable_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width to which images are brought: their own if it is one and small, and else 32 pixels a side."""
    if len(set(sizes)) == 1 and all(MIN_SIDE <= side <= MAX_SIDE for side in sizes[0]):
        return sizes[0]
    typical = int(np.median([min(size) for size in sizes]))
    return (DEFAULT_SIDE, DEFAULT_SIDE) if typical >= DEFAULT_SIDE else (16, 16)


def _sizes(headers: Sequence[Header]) -> str:
    sizes = sorted({header.size for header in headers}, key=lambda size: size[0] * size[1])
    (h0, w0), (h1, w1) = sizes[0], sizes[-1]
    return f"size: all {w0}x{h0}" if len(sizes) == 1 else f"sizes: {len(sizes):,} of them, from {w0}x{h0} to {w1}x{h1}"


def _counts(names: Iterable[str]) -> str:
    """Names with their numbers, the most frequent first: `200 JPEG, 3 PNG`."""
    return ", ".join(f"{number:,} {name}" for name, number in Counter(names).most_common())
