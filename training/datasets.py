"""Data sets: images split into train, validation and test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

__all__ = ["DATASETS", "Dataset", "DatasetError", "data_directory", "load_dataset"]

Pixels = NDArray[np.uint8]
SPLITS = ("train", "valid", "test")


class DatasetError(ValueError):
    """A data set that cannot be had or used; the message says how to get it."""


@dataclass(frozen=True)
class Dataset:
    """Images as uint8, each split of shape (N, C, H, W).

    levels: the greatest pixel value: 1 for binary images, 255 for gray ones
    """

    name: str
    train: Pixels
    valid: Pixels
    test: Pixels
    levels: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def describe(self) -> dict[str, Any]:
        """What a checkpoint's card says of its data: name, image shape, split sizes and hashes."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "sizes": {name: len(images) for name, images in splits.items()},
            "sha256": {name: hashlib.sha256(images.tobytes()).hexdigest() for name, images in splits.items()},
        }


def data_directory() -> Path:
    """Where data sets are kept: `VAMP_DATA_DIR`, or a folder in the user's cache."""
    return Path(os.environ.get("VAMP_DATA_DIR") or platformdirs.user_cache_path("vampprior") / "data")


def load_dataset(name: str, directory: Path | None = None) -> Dataset:
    """The data set of that name; raises `DatasetError` if it is unknown or cannot be had."""
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(sorted(DATASETS))}")
    return DATASETS[name](directory or data_directory())


def _static_mnist(directory: Path) -> Dataset:
    with np.load(directory / "static_mnist.npz", allow_pickle=False) as arrays:
        train, valid, test = (arrays[name][:, None] for name in SPLITS)
    return Dataset("static_mnist", train, valid, test, levels=1)


DATASETS: dict[str, Callable[[Path], Dataset]] = {"static_mnist": _static_mnist}
