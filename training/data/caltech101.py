"""Caltech 101 Silhouettes (Marlin et al., 2010): filled outlines of the objects in the photographs of Caltech 101."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import SPLITS, Pixels
from training.data.matlab import column_major_images, read_matlab

__all__ = ["CALTECH101_SILHOUETTES"]

MATRICES = {"train": "train_data", "valid": "val_data", "test": "test_data"}


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    matrices = read_matlab(paths["silhouettes"], tuple(MATRICES.values()))
    return {split: column_major_images(matrices[name]).astype(np.uint8) for split, name in MATRICES.items()}


def _invert(arrays: Mapping[str, Pixels]) -> dict[str, Pixels]:
    """Make silhouettes ones, as in the paper; in the source they are zeros."""
    return {split: np.uint8(1) - arrays[split] for split in SPLITS}


CALTECH101_SILHOUETTES = Archive(
    name="caltech101_silhouettes",
    summary="silhouettes of objects, 28x28, 4100 / 2264 / 2307 images, black and white",
    file="caltech101_silhouettes.npz",
    arrays={
        "train": StoredArray((4100, 28, 28), "4e667900732526e6c757b385151c31812ec071b1e833dcad1f10cbe9c12e9a96"),
        "valid": StoredArray((2264, 28, 28), "d31899cd9a8421bad5500bdfa166ea93b6490c6f67abbd09826603751801628d"),
        "test": StoredArray((2307, 28, 28), "caf9bfb9732aced2ed6d7cfb7bf678eb933622574c87a3ce159a3c76dcb2b722"),
    },
    downloads={
        "silhouettes": RemoteFile(
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
            "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
        )
    },
    convert=_convert,
    prepare=_invert,
    levels=1,
)
