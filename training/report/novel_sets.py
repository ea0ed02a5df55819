"""Sets of images that a model should find new: images of other data sets, and altered images of its own.

All images are 8-bit gray levels of shape (N, H, W); those of binary models are 0 or 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data import DATASETS, Pixels, load_dataset
from vampprior.binarization import threshold_gray

__all__ = ["altered_sets", "choose", "foreign_sets"]

FOREIGN = {
    "Fashion-MNIST": ("fashion_mnist",),
    "Omniglot": ("omniglot", "omniglot_raw28"),
    "Caltech 101 Silhouettes": ("caltech101_silhouettes",),
    "static MNIST": ("static_mnist",),
}
"""Data sets of 28x28 pixels by title; the first one that is available is taken."""
SIDE = 28
HOLE = 8
"""Side of the black square of a hole in pixels, at most half the image's."""
STROKE = 2
"""Width of the white line of a stroke, and its distance from the border, in pixels."""
SHIFTS = (4, 5, 6)
"""Pixels by which shifted images are moved along each axis."""
BRIGHTER = 60
"""Gray levels by which brighter images are brighter."""


def choose(images: Pixels, count: int, random: np.random.Generator) -> Pixels:
    """At most `count` images in random order."""
    return images[random.permutation(len(images))[:count]]


def foreign_sets(
    own: str, shape: tuple[int, int], binary: bool, count: int, directory: Path, random: np.random.Generator
) -> dict[str, Pixels]:
    """At most `count` images of each other data set that is available, by its title.

    The gray levels are of the training images, since held-out images may be binarized. Sides that are longer than the
    model's are cropped around the centre, so only models of at most 28x28 pixels get any.

    Args:
        own: Name of the model's data set, which is left out.
        shape: Height and width of the model's images.
        binary: True if the model takes binary pixels; the images are then thresholded at one half.
        count: Largest number of images of a set.
        directory: Folder of the data sets.
        random: Source of the choice of images.
    """
    found = {}
    top, left = ((SIDE - side) // 2 for side in shape)
    for title, names in FOREIGN.items():
        name = next((name for name in names if DATASETS[name].is_available(directory)), None)
        if name is None or name == own or max(shape) > SIDE:
            continue
        gray = choose(load_dataset(name, directory).gray("train")[:, 0], count, random)
        cropped = gray[:, top : top + shape[0], left : left + shape[1]]
        found[title] = threshold_gray(cropped) if binary else cropped
    return found


def altered_sets(images: Pixels, binary: bool, random: np.random.Generator, margin: int = 0) -> dict[str, Pixels]:
    """Images altered in several ways, by the name of the way; each set has as many images as are given.

    Args:
        images: Known images, shape (N, H, W).
        binary: True if pixels are 0 or 255 only.
        random: Source of places, partners and noise.
        margin: Rows and columns along the border in which no hole lies.
    """
    height, width = images.shape[1:]
    noise = random.integers(0, 256, images.shape).astype(np.uint8)
    partners = images[random.permutation(len(images))]
    turned = np.rot90(images, 1, (1, 2)) if height == width else images[:, ::-1, ::-1]
    flat = random.permuted(images.reshape(len(images), -1), axis=1)
    sets = {
        "flipped left to right": images[:, :, ::-1],
        "flipped upside down": images[:, ::-1],
        f"rotated by {90 if height == width else 180} degrees": turned,
        "inverted": np.uint8(255) - images,
        "blank": np.zeros_like(images),
        "noise": threshold_gray(noise) if binary else noise,
        "shuffled": flat.reshape(images.shape),
        "hole": _with_holes(images, random, margin),
        "stroke": _with_strokes(images, random),
        "overlay": np.maximum(images, partners) if binary else _mean(images, partners),
        "shift": np.stack([_shifted(image, random) for image in images]),
    }
    if not binary:
        sets["uniform gray"] = np.full_like(images, 128)
        sets[f"{BRIGHTER} levels brighter"] = np.minimum(images, 255 - BRIGHTER) + np.uint8(BRIGHTER)
    return {name: np.ascontiguousarray(altered) for name, altered in sets.items()}


def _with_holes(images: Pixels, random: np.random.Generator, margin: int) -> Pixels:
    altered = images.copy()
    height, width = images.shape[1:]
    side = min(HOLE, height // 2, width // 2)
    tops = random.integers(margin, height - margin - side + 1, len(images))
    lefts = random.integers(margin, width - margin - side + 1, len(images))
    for image, top, left in zip(altered, tops, lefts, strict=True):
        image[top : top + side, left : left + side] = 0
    return altered


def _with_strokes(images: Pixels, random: np.random.Generator) -> Pixels:
    """A horizontal or vertical line across each image."""
    altered = images.copy()
    for image in altered:
        canvas = image if random.random() < 0.5 else image.T
        start = random.integers(STROKE, len(canvas) - STROKE - 1)
        canvas[start : start + STROKE, STROKE:-STROKE] = 255
    return altered


def _mean(one: Pixels, other: Pixels) -> Pixels:
    return ((one.astype(np.uint16) + other) // 2).astype(np.uint8)


def _shifted(image: Pixels, random: np.random.Generator) -> Pixels:
    """The image moved along both axes; what leaves it on one side enters on the other."""
    distances = random.choice(SHIFTS, 2) * random.choice((-1, 1), 2)
    return np.roll(image, (int(distances[0]), int(distances[1])), (0, 1))
