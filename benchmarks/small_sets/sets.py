"""Small sets of real images from scikit-image and scikit-learn, which need no download.

Images are cut out of pictures that come with the packages; none is in this repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from training.data.dataset import Dataset, Pixels, shuffled_splits
from vampprior.preparation import Preparation

__all__ = ["SETS", "TEXTURES", "texture_patches"]

SIDE = 16
"""Pixels a side of patches and faces."""
NUM_PATCHES, NUM_DIGITS = 150, 300
"""Training images."""
NUM_VALID, NUM_TEST = 99, 300
"""Images for validation and for the test; of the 100 faces there are 20 each."""
TEXTURES = ("brick", "gravel", "grass")
"""Gray pictures of scikit-image, 512x512, under the licence CC0."""


def texture_patches(name: str) -> dict[str, Pixels]:
    """Patches (N, 1, 16, 16) of a texture by split: training and validation from its left half, test from its right."""
    from skimage import data

    return _halves(getattr(data, name)()[None])


def _texture(name: str) -> Dataset:
    return Dataset.of(name, texture_patches(name), 255).prepared(Preparation((SIDE, SIDE), "gray"), [])


def _tissue() -> Dataset:
    """Patches of the picture `immunohistochemistry` of scikit-image in colour, without known copyright restrictions."""
    from skimage import data

    splits = _halves(data.immunohistochemistry().transpose(2, 0, 1))
    return Dataset.of("tissue", splits, 255).prepared(Preparation((SIDE, SIDE), "rgb"), [])


def _faces() -> Dataset:
    """The 100 faces of `lfw_subset` of scikit-image, from Labeled Faces in the Wild (Huang et al., 2007), reduced."""
    from skimage import data

    preparation = Preparation((SIDE, SIDE), "gray")
    gray = np.rint(255 * data.lfw_subset()[:100]).astype(np.uint8)
    images = np.stack([preparation.prepare(image) for image in gray])
    return Dataset.of("faces", shuffled_splits(images, num_valid=20, num_test=20), 255).prepared(preparation, [])


def _digits() -> Dataset:
    """Handwritten digits of scikit-learn in black and white, 8x8."""
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.uint8)[:, None]
    splits = shuffled_splits(images, num_valid=NUM_VALID, num_test=NUM_TEST)
    splits["train"] = splits["train"][:NUM_DIGITS]
    dataset = Dataset.of("digits", splits, 16).thresholded()
    return dataset.prepared(Preparation((8, 8), "binary"), [])


def _halves(picture: Pixels) -> dict[str, Pixels]:
    """Disjoint patches of a picture (C, H, W): at random of its left half, and of its right half for the test."""
    channels, height, width = picture.shape
    grid = picture.reshape(channels, height // SIDE, SIDE, width // SIDE, SIDE)
    left, right = np.split(grid.transpose(1, 3, 0, 2, 4), 2, axis=1)
    left, right = (np.ascontiguousarray(half.reshape(-1, channels, SIDE, SIDE)) for half in (left, right))
    known = shuffled_splits(left, num_valid=NUM_VALID, num_test=len(left) - NUM_PATCHES - NUM_VALID)
    unseen = shuffled_splits(right, num_valid=0, num_test=NUM_TEST)
    return {"train": known["train"], "valid": known["valid"], "test": unseen["test"]}


SETS: Mapping[str, Callable[[], Dataset]] = {
    **{name: lambda name=name: _texture(name) for name in TEXTURES},  # type: ignore[misc]
    "faces": _faces,
    "digits": _digits,
    "tissue": _tissue,
}
"""Data sets by name."""
