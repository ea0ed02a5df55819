"""A data set in memory: images split into train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vampprior.preparation import Preparation

__all__ = [
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Pixels",
    "binarize_heldout",
    "check_range",
    "read_arrays",
    "shuffled_splits",
]

Pixels = NDArray[np.uint8]
SPLITS = ("train", "valid", "test")
SHUFFLE_SEED = 0
"""Seed of random splits: always the same, so that all runs are tested on the same images."""
BINARIZATION_SEED = 777
"""The seed of the paper's public code, so that the test images equal its own bit by bit."""


class DatasetError(ValueError):
    """A data set that is missing, unknown or damaged; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """Images as uint8, each split of shape (N, C, H, W).

    levels:  the greatest pixel value: 1 for binary images, 255 for gray ones
    dynamic: True if the training images are gray levels that are binarized anew at every visit: a pixel is 1 with
             probability level / 255 (Salakhutdinov & Murray, 2008). The other splits are binary.
    labels:  labels by split, int32 of shape (N,), for the splits that have any; only maps of the latents show them
    preparation: how the user's own images were prepared, so that a server can do the same
    notices: sentences on images that were left out, for whoever trains
    """

    name: str
    train: Pixels
    valid: Pixels
    test: Pixels
    levels: int
    dynamic: bool = False
    labels: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    preparation: Preparation | None = None
    notices: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, splits: Mapping[str, Pixels], levels: int, dynamic: bool = False) -> Dataset:
        """A data set from its images by split."""
        return cls(name, splits["train"], splits["valid"], splits["test"], levels, dynamic)

    def with_labels(self, arrays: Mapping[str, NDArray[Any]]) -> Dataset:
        """The data set with the arrays `train_labels`, `valid_labels` and `test_labels`, as far as they fit it."""
        found = {split: arrays.get(f"{split}_labels") for split in SPLITS}
        labels = {
            split: column.astype(np.int32)
            for split, column in found.items()
            if column is not None and column.dtype.kind in "iu" and column.shape == (len(getattr(self, split)),)
        }
        return replace(self, labels=labels)

    def prepared(self, preparation: Preparation, notices: Sequence[str]) -> Dataset:
        """The data set with the preparation of its images, which is `binary` for black and white ones, and notices."""
        if self.levels == 1:
            return replace(self, preparation=_black_and_white(preparation), notices=tuple(notices))
        return replace(self, preparation=preparation, notices=tuple(notices))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @property
    def kind(self) -> str:
        """The kind of pixels in one word: colour, gray, binarized or binary."""
        if self.levels > 1:
            return "colour" if self.image_shape[0] == 3 else "gray"
        return "binarized" if self.dynamic else "binary"

    def gray(self, split: str) -> Pixels:
        """The images of a split as 8-bit gray levels: the ones of a binary image become 255."""
        images: Pixels = getattr(self, split)
        return images if self.levels == 255 or (self.dynamic and split == "train") else images * np.uint8(255)

    def thresholded(self) -> Dataset:
        """The same images in black and white: a pixel is 1 from one half of `levels` upwards."""
        half = -(-self.levels // 2)
        splits = {name: (getattr(self, name) >= half).astype(np.uint8) for name in SPLITS}
        return replace(self, **splits, levels=1, preparation=_black_and_white(self.preparation))

    def describe(self) -> dict[str, Any]:
        """The data set on a checkpoint's card: name, image shape, and the size and sha256 of every split."""
        splits = {name: getattr(self, name) for name in SPLITS}
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "sizes": {name: len(images) for name, images in splits.items()},
            "sha256": {name: hashlib.sha256(images.tobytes()).hexdigest() for name, images in splits.items()},
        }


def _black_and_white(preparation: Preparation | None) -> Preparation | None:
    """The preparation with thresholded pixels; None for three channels, which no preparation thresholds."""
    if preparation is None or preparation.mode == "rgb":
        return None
    return replace(preparation, mode="binary")


def shuffled_splits(images: Pixels, num_valid: int, num_test: int, seed: int = SHUFFLE_SEED) -> dict[str, Pixels]:
    """Split images (N, ...) at random, always in the same way; the remaining ones are for training."""
    order = np.random.default_rng(seed).permutation(len(images))
    num_train = len(images) - num_valid - num_test
    parts = np.split(images[order], [num_train, num_train + num_valid])
    return dict(zip(SPLITS, parts, strict=True))


def binarize_heldout(arrays: Mapping[str, Pixels]) -> dict[str, Pixels]:
    """Binarize the gray validation and test images (N, H, W) of a dynamic data set once, for all models alike."""
    random = np.random.RandomState(BINARIZATION_SEED)  # its draws are the same in every version of NumPy
    heldout = {split: random.binomial(1, arrays[split] / np.float32(255)) for split in ("valid", "test")}
    return {"train": arrays["train"]} | {split: images.astype(np.uint8) for split, images in heldout.items()}


def check_range(values: NDArray[Any], greatest: int, what: str) -> None:
    """Raise `DatasetError`, which begins with `what`, unless all values are between 0 and the greatest."""
    if not (values.min() >= 0 and values.max() <= greatest):  # also False for NaN
        raise DatasetError(f"{what} has values outside 0 to {greatest}: from {values.min()} to {values.max()}")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file by name; nothing is unpickled. Raises `DatasetError` if the file is damaged."""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DatasetError(f"{path} is a single array; rename it to .npy")
            return {name: archive[name] for name in archive.files}
    except DatasetError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged file
        raise DatasetError(f"{path} cannot be read as .npz: {' '.join(str(error).split())}") from error
