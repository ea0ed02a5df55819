"""A data set in memory: images split into train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPLITS", "Dataset", "DatasetError", "Pixels", "read_arrays", "shuffled_splits"]

Pixels = NDArray[np.uint8]
SPLITS = ("train", "valid", "test")
SHUFFLE_SEED = 0
"""Of the random splits. One for all, so that every run on the same images is tested on the same images."""


class DatasetError(ValueError):
    """A data set that cannot be had or used; the message says how to get it."""


@dataclass(frozen=True)
class Dataset:
    """Images as uint8, each split of shape (N, C, H, W).

    levels:  the greatest pixel value: 1 for binary images, 255 for gray ones
    dynamic: whether the training images, and they alone, are gray levels, to be binarized afresh at every visit with a
             pixel's level / 255 as its probability of being 1 (Salakhutdinov & Murray, 2008)
    """

    name: str
    train: Pixels
    valid: Pixels
    test: Pixels
    levels: int
    dynamic: bool = False

    @classmethod
    def of(cls, name: str, splits: Mapping[str, Pixels], *, levels: int, dynamic: bool = False) -> Dataset:
        """A data set whose images come by the names of their splits."""
        return cls(name, splits["train"], splits["valid"], splits["test"], levels, dynamic)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def kind(self) -> str:
        """How its pixels are, in a word."""
        return "gray" if self.levels > 1 else "binarized" if self.dynamic else "binary"

    def gray(self, split: str) -> Pixels:
        """A split's images as 8-bit gray levels: the ones of a binary image become 255."""
        images: Pixels = getattr(self, split)
        return images if self.levels == 255 or (self.dynamic and split == "train") else images * np.uint8(255)

    def thresholded(self) -> Dataset:
        """The same images as black and white: a pixel is 1 from one half of `levels` on."""
        half = -(-self.levels // 2)
        splits = {name: (getattr(self, name) >= half).astype(np.uint8) for name in SPLITS}
        return replace(self, **splits, levels=1)

    def describe(self) -> dict[str, Any]:
        """What a checkpoint's card says of its data: name, image shape, split sizes and hashes."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "sizes": {name: len(images) for name, images in splits.items()},
            "sha256": {name: hashlib.sha256(images.tobytes()).hexdigest() for name, images in splits.items()},
        }


def shuffled_splits(images: Pixels, num_valid: int, num_test: int, seed: int = SHUFFLE_SEED) -> dict[str, Pixels]:
    """Images (N, ...) in a random order that is always the same, split: what is left over is for training."""
    order = np.random.default_rng(seed).permutation(len(images))
    num_train = len(images) - num_valid - num_test
    parts = np.split(images[order], [num_train, num_train + num_valid])
    return dict(zip(SPLITS, parts, strict=True))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file, by name; nothing is unpickled. Raises `DatasetError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DatasetError(f"{path} is a single array; save it with numpy.savez under a name")
            return {name: archive[name] for name in archive.files}
    except DatasetError:
        raise
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib and NumPy stumble over
        raise DatasetError(f"{path} cannot be read as .npz: {' '.join(str(error).split())}") from error
