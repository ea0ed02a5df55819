"""The user's own images: a folder of image files, or an `.npz` file of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import SPLITS, Dataset, DatasetError, Pixels, check_range, read_arrays, shuffled_splits

__all__ = ["load_own_images"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MIN_SPLIT = 2
"""Fewest images of a split: the mean of one image has no standard error."""
MIN_IMAGES = 10 * MIN_SPLIT
MAX_IMAGE_VALUES = 256 * 256
"""Most values per image; the dense layers for more would not fit into memory."""


def load_own_images(path: Path) -> Dataset:
    """Load images from a folder or an `.npz` file; raises `DatasetError` if they cannot be used.

    Folder: all image files directly in it, of one size, converted to 8-bit gray. Color becomes its luma (ITU-R 601),
    16-bit gray its upper 8 bits, and transparent pixels are laid over black.

    `.npz`: arrays `train`, `valid` and `test`, or one array `images`, each of shape (N, H, W) or (N, C, H, W) with 1 or
    3 channels, and with whole values of 0 to 255 (0 and 1 for black and white) or fractions of 0 to 1.

    Images without splits are split at random, always in the same way: 80 / 10 / 10 per cent.
    """
    splits = _splits_of_folder(path) if path.is_dir() else _splits_of_arrays(path)
    for split, images in splits.items():
        if len(images) < MIN_SPLIT:
            raise DatasetError(f"{path}: {split} holds {len(images)} images; at least {MIN_SPLIT} are needed")
    if len(shapes := {images.shape[1:] for images in splits.values()}) > 1:
        raise DatasetError(f"{path}: train, valid and test differ in the size of their images: {sorted(shapes)}")
    (shape,) = shapes
    if np.prod(shape) > MAX_IMAGE_VALUES:
        raise DatasetError(f"{path}: images of {shape} have over {MAX_IMAGE_VALUES} values; make them smaller")
    levels = 1 if max(int(images.max()) for images in splits.values()) <= 1 else 255
    return Dataset.of(path.stem, splits, levels)


def _split(path: Path, images: Pixels) -> dict[str, Pixels]:
    if len(images) < MIN_IMAGES:
        raise DatasetError(f"{path} holds {len(images)} images; at least {MIN_IMAGES} are needed")
    tenth = len(images) // 10
    return shuffled_splits(images, num_valid=tenth, num_test=tenth)


def _splits_of_folder(path: Path) -> dict[str, Pixels]:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DatasetError(f"{path} has no image files directly in it, which end in {', '.join(sorted(SUFFIXES))}")
    first = _read_gray(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for index, file in enumerate(files):
        image = _read_gray(file)
        if image.shape != first.shape:
            sizes = [f"{width}x{height}" for height, width in (image.shape, first.shape)]
            raise DatasetError(f"{file} is {sizes[0]} and {files[0].name} is {sizes[1]}; all must be of one size")
        images[index] = image
    return _split(path, images[:, None])


def _read_gray(file: Path) -> Pixels:
    """An image file as 8-bit gray (H, W)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DatasetError("image files need Pillow: pip install pillow") from error
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_IMAGE_VALUES:
                raise DatasetError(f"{file} is {image.width}x{image.height} pixels; make the images smaller")
            if image.mode.startswith("I"):
                return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, "black")
                return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
            return np.asarray(image.convert("L"))
    except DatasetError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be read as an image: {' '.join(str(error).split())}") from error


def _splits_of_arrays(path: Path) -> dict[str, Pixels]:
    if path.suffix != ".npz" or not path.is_file():
        raise DatasetError(f"{path} is neither a folder of images nor an .npz file")
    arrays = read_arrays(path)
    if all(split in arrays for split in SPLITS):
        return {split: _to_pixels(f"{path}: {split}", arrays[split]) for split in SPLITS}
    if "images" not in arrays:
        names = ", ".join(arrays) or "nothing"
        raise DatasetError(f"{path} must hold arrays train, valid and test, or one array images; it holds {names}")
    return _split(path, _to_pixels(f"{path}: images", arrays["images"]))


def _to_pixels(what: str, array: NDArray[Any]) -> Pixels:
    """Convert an array of images to uint8 of shape (N, C, H, W)."""
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape:
        raise DatasetError(f"{what} has shape {array.shape}, not (N, H, W) or (N, C, H, W)")
    if array.shape[1] not in (1, 3):
        raise DatasetError(f"{what} has shape {array.shape}; after N come 1 or 3 channels, then height and width")
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{what} holds {array.dtype} values, not numbers")
    check_range(array, 1 if array.dtype.kind == "f" else 255, what)
    if array.dtype.kind == "f":
        array = np.rint(array * 255.0)
    return np.ascontiguousarray(array, dtype=np.uint8)
