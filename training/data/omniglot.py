"""Omniglot (Lake et al., 2015): handwritten characters of 50 alphabets, in the 28x28 version of Burda et al. (2016)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import DatasetError, Pixels, binarize_heldout, check_range, shuffled_splits
from training.data.matlab import column_major_images, read_matlab

__all__ = ["OMNIGLOT", "OMNIGLOT_RAW28", "nearest_levels"]

NUM_VALID = 1345


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """Gray levels of all images; the validation images are drawn at random from the training images.

    The source has fractions. Rounding them to levels changes a pixel's probability of being 1 by at most 1/510.
    """
    matrices = read_matlab(paths["drawings"], ("data", "testdata"))
    drawings, test = (
        nearest_levels(column_major_images(matrix.T), f"{paths['drawings']}: {name}")
        for name, matrix in matrices.items()
    )
    return shuffled_splits(drawings, num_valid=NUM_VALID, num_test=0) | {"test": test}


def nearest_levels(fractions: NDArray[Any], what: str) -> Pixels:
    """Gray levels 255 * fraction, rounded.

    Raises `DatasetError`, which begins with `what`, if the values are not fractions between 0 and 1.
    """
    if fractions.dtype.kind != "f":
        raise DatasetError(f"{what} holds {fractions.dtype} values, not fractions")
    check_range(fractions, 1, what)
    return np.rint(255.0 * fractions).astype(np.uint8)


OMNIGLOT = Archive(
    name="omniglot",
    summary="handwritten characters binarized anew at every visit, 28x28, 23000 / 1345 / 8070 images",
    file="omniglot.npz",
    arrays={
        "train": StoredArray((23000, 28, 28)),
        "valid": StoredArray((1345, 28, 28)),
        "test": StoredArray((8070, 28, 28)),
    },
    downloads={
        "drawings": RemoteFile(
            "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",
            "git:016a3536ffe5e1d38e42563a18d7a78bfaf643ec",
        )
    },
    convert=_convert,
    prepare=binarize_heldout,
    levels=1,
    dynamic=True,
)

OMNIGLOT_RAW28 = Archive(
    name="omniglot_raw28",
    summary="omniglot in another downscaling and split, whose numbers cannot be compared with published ones",
    file="omniglot_raw28.npz",
    arrays={
        "train": StoredArray((23000, 28, 28), "ce99346d1e83a417c774d20314a2532afbf9d320ec225a38aae8a9c82d2f49e7"),
        "valid": StoredArray((1345, 28, 28), "6a3aa536b859de25b49d080b28669274b681aff81e270ea6bfe29527028df83d"),
        "test": StoredArray((8070, 28, 28), "6af417a194ac1946181047609bfa4bc8f2f21915124ad85b4b6a5561bbd85639"),
    },
    prepare=binarize_heldout,
    levels=1,
    dynamic=True,
)
"""A substitute for those who have its file: the original drawings of 105x105 pixels averaged over areas; 15 of the 20
drawings of each character are for training and validation."""
