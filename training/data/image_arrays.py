"""Images in `.npz` and `.npy` files, with their channels before or after height and width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import SPLITS, DatasetError, Pixels, check_range, read_arrays

__all__ = ["read_image_arrays", "to_pixels"]

CHANNELS = (1, 3)


def read_image_arrays(path: Path) -> dict[str, Pixels]:
    """Images (N, C, H, W) of a `.npy` file, or of an `.npz` file with arrays `train`, `valid` and `test` or `images`.

    Returns the three splits, or `images` alone. Raises `DatasetError` if the file cannot be used.
    """
    if path.suffix not in (".npz", ".npy") or not path.is_file():
        raise DatasetError(f"{path} is neither a folder of images nor an .npz or .npy file")
    if path.suffix == ".npy":
        return {"images": to_pixels(str(path), _read_array(path))}
    arrays = read_arrays(path)
    if all(split in arrays for split in SPLITS):
        return {split: to_pixels(f"{path}: {split}", arrays[split]) for split in SPLITS}
    if "images" not in arrays:
        names = ", ".join(arrays) or "nothing"
        raise DatasetError(f"{path} must hold arrays train, valid and test, or one array images; it holds {names}")
    return {"images": to_pixels(f"{path}: images", arrays["images"])}


def to_pixels(what: str, array: NDArray[Any]) -> Pixels:
    """Convert images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels to uint8 of shape (N, C, H, W).

    Whole values are levels of 0 to 255, or 0 and 1 for black and white; fractions are of 0 to 1.
    Raises `DatasetError`, which begins with `what`, for other values and for shapes that can be read in two ways.
    """
    if 0 in array.shape or array.ndim not in (3, 4):
        raise DatasetError(f"{what} has shape {array.shape}, not (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{what} holds {array.dtype} values, not numbers")
    if array.ndim == 4 and _channels_last(what, array.shape):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim == 3:
        array = array[:, None]
    check_range(array, 1 if array.dtype.kind == "f" else 255, what)
    if array.dtype.kind == "f":
        array = np.rint(array * 255.0)
    return np.ascontiguousarray(array, dtype=np.uint8)


def _channels_last(what: str, shape: tuple[int, ...]) -> bool:
    """True for (N, H, W, C), False for (N, C, H, W)."""
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last:
        raise DatasetError(
            f"{what} has shape {shape}, which could be (N, C, H, W) or (N, H, W, C); gray images can be saved as "
            "(N, H, W), and sides of 1 or 3 pixels are too small for a model"
        )
    if not first and not last:
        raise DatasetError(
            f"{what} has shape {shape}; its second or its last dimension must be the channels, 1 or 3 of them"
        )
    return last


def _read_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
    except Exception as error:  # NumPy raises many types for a damaged file
        raise DatasetError(f"{path} cannot be read as .npy: {' '.join(str(error).split())}") from error
    raise DatasetError(f"{path} holds several arrays; rename it to .npz")
