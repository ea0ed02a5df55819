"""The user's own images: a folder of image files, or a file of arrays, prepared and split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.dataset import SPLITS, Dataset, DatasetError, Pixels, shuffled_splits
from training.data.image_arrays import read_image_arrays
from training.data.image_files import ImageFiles, count, find_image_files, read_headers
from vampprior.preparation import Fit, Mode, Preparation

__all__ = ["MIN_IMAGES", "Wanted", "heldout_sizes", "load_own_images", "without_duplicates"]

MIN_SPLIT = 2
"""Fewest images of a split: the mean of one image has no standard error."""
MIN_IMAGES = 10 * MIN_SPLIT
MAX_IMAGE_VALUES = 256 * 256
"""Most values per image; the dense layers for more would not fit into memory."""
CALIBRATION_IMAGES = 99
"""Validation images with which the smallest p-value is 0.01, the usual false-alarm rate."""
FEW_IMAGES = 20
"""Fewest validation images with which a model can be calibrated."""


@dataclass(frozen=True)
class Wanted:
    """How own images are to be prepared.

    size: height and width; None for images that all have one size already
    mode: channels and levels; None for those of the arrays, or for gray if the images are files
    fit:  what happens to other aspect ratios
    """

    size: tuple[int, int] | None = None
    mode: Mode | None = None
    fit: Fit = "crop"

    @classmethod
    def of(cls, preparation: Preparation) -> Wanted:
        """What the card of a checkpoint says."""
        return cls(preparation.size, preparation.mode, preparation.fit)

    def given(self, size: tuple[int, int], mode: Mode) -> Preparation:
        """The preparation, with the size and the mode of the images where no others are wanted."""
        return Preparation(self.size or size, self.mode or mode, self.fit)


def load_own_images(path: Path, wanted: Wanted | None = None) -> Dataset:
    """Load images from a folder or a file of arrays; raises `DatasetError` if they cannot be used.

    Folder: all image files in it and in its folders. Files that cannot be read are skipped, with a notice.

    `.npz` or `.npy`: arrays `train`, `valid` and `test`, or one array of images, of shape (N, H, W), (N, H, W, C) or
    (N, C, H, W) with 1 or 3 channels, and with whole values of 0 to 255 (0 and 1 for black and white) or fractions of 0
    to 1.

    Images without splits are split at random, always in the same way: 80 / 10 / 10 per cent, but with at least 99
    validation images if there are 495 or more, and at least 20 if there are 100 or more. Before that, all but the first
    of equal images are left out, with a notice, so that no test image is a training image.
    """
    wanted = wanted or Wanted()
    dataset = _from_files(path, wanted) if path.is_dir() else _from_arrays(path, wanted)
    for split in SPLITS:
        if (number := len(getattr(dataset, split))) < MIN_SPLIT:
            raise DatasetError(f"{path}: {split} holds {number} images; at least {MIN_SPLIT} are needed")
    return dataset.thresholded() if wanted.mode == "binary" else dataset


def heldout_sizes(num_images: int) -> tuple[int, int]:
    """Numbers of validation images and of test images of a set of this size."""
    tenth = num_images // 10
    if num_images >= 5 * CALIBRATION_IMAGES:
        return max(tenth, CALIBRATION_IMAGES), tenth
    return (max(tenth, FEW_IMAGES) if num_images >= 5 * FEW_IMAGES else tenth), tenth


def without_duplicates(images: Pixels) -> Pixels:
    """The images (N, ...) without those that equal an earlier one."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
    return images if len(first) == len(images) else images[list(first.values())]


def _from_files(folder: Path, wanted: Wanted) -> Dataset:
    notices: list[str] = []
    if wanted.size is None or wanted.mode is None:
        size, coloured = _look_at_headers(folder, wanted.size)
        if coloured and wanted.mode is None:
            notices.append('the images lose their colours; set mode = "rgb" in [images] to keep them')
    preparation = wanted.given(wanted.size or size, "gray")
    _check_size(folder, preparation.image_shape)
    files = ImageFiles.read(folder, preparation)
    notices += files.notices
    return _split(folder, files.images, 255, preparation, notices)


def _from_arrays(path: Path, wanted: Wanted) -> Dataset:
    arrays = read_image_arrays(path)
    if len(shapes := {images.shape[1:] for images in arrays.values()}) > 1:
        raise DatasetError(f"{path}: train, valid and test differ in the size of their images: {sorted(shapes)}")
    channels, height, width = shapes.pop()
    preparation = wanted.given((height, width), "rgb" if channels == 3 else "gray")
    _check_size(path, preparation.image_shape)
    levels = 1 if max(int(images.max()) for images in arrays.values()) <= 1 else 255
    if preparation.image_shape != (channels, height, width):
        arrays = {split: _prepared(images, levels, preparation) for split, images in arrays.items()}
        levels = 255
    if "images" in arrays:
        return _split(path, arrays["images"], levels, preparation, [])
    return Dataset.of(path.stem, arrays, levels).prepared(preparation, [])


def _split(path: Path, images: Pixels, levels: int, preparation: Preparation, notices: list[str]) -> Dataset:
    """A data set of images that have no splits yet, without duplicates."""
    distinct = without_duplicates(images)
    if duplicates := len(images) - len(distinct):
        notices = [*notices, f"left out {count(duplicates, 'image')} equal to another one, as prepared"]
    if len(distinct) < MIN_IMAGES:
        reasons = "".join(f"; {notice}" for notice in notices)
        raise DatasetError(f"{path} holds {len(distinct)} images; at least {MIN_IMAGES} are needed{reasons}")
    splits = shuffled_splits(distinct, *heldout_sizes(len(distinct)))
    return Dataset.of(path.stem, splits, levels).prepared(preparation, notices)


def _prepared(images: Pixels, levels: int, preparation: Preparation) -> Pixels:
    """Images (N, C, H, W) as the preparation gives them."""
    last = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    factor = np.uint8(255 // levels)
    return np.stack([preparation.prepare(np.ascontiguousarray(image * factor)) for image in last])


def _look_at_headers(folder: Path, size: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
    """Height and width that all files of a folder have, and whether any has colours.

    Raises `DatasetError`, which names two files, if they differ and no size is given.
    """
    paths = find_image_files(folder)
    sizes: dict[tuple[int, int], Path] = {}
    coloured = False
    for path, header in zip(paths, read_headers(folder, paths), strict=True):
        if isinstance(header, str):
            continue  # the reader says which files cannot be read
        sizes.setdefault(header.size, path)
        coloured = coloured or header.coloured
    if len(sizes) > 1 and size is None:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise DatasetError(
            f"{folder / other} is {second[1]}x{second[0]} and {one.name} is {first[1]}x{first[0]}; set a size in "
            "[images] to which all are brought, such as size = 32"
        )
    return next(iter(sizes), (1, 1)), coloured


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    if np.prod(shape) > MAX_IMAGE_VALUES:
        raise DatasetError(
            f"{path}: images of {shape} have over {MAX_IMAGE_VALUES} values; set a smaller size in [images]"
        )
