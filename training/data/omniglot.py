"""Omniglot (Lake et al., 2015): handwritten characters of 50 alphabets, in the 28x28 version of Burda et al. (2015)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.data.archives import Archive, Origin, StoredArray
from training.data.binarization import binarize_heldout
from training.data.checksums import GitBlob
from training.data.downloads import RemoteFile
from training.data.gray_levels import nearest_levels
from training.data.matlab import column_major_images, read_matlab
from training.data.splits import Pixels, shuffled_splits

__all__ = ["OMNIGLOT", "OMNIGLOT_RAW28"]

NUM_VALID = 1345


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """Gray levels of all images, with the validation images drawn at random from the training images.

    The source has fractions; rounding them to levels moves a pixel's probability of being 1 by 1/510 at most.
    """
    matrices = read_matlab(paths["drawings"], ("data", "testdata"))
    drawings, test = (
        nearest_levels(column_major_images(matrix.T), f"{paths['drawings']}: {name}")
        for name, matrix in matrices.items()
    )
    return shuffled_splits(drawings, num_valid=NUM_VALID, num_test=0) | {"test": test}


OMNIGLOT = Archive(
    name="omniglot",
    summary="handwritten characters binarized afresh at every visit, 28x28, 23000 / 1345 / 8070 images",
    file="omniglot.npz",
    arrays={
        "train": StoredArray((23000, 28, 28)),
        "valid": StoredArray((1345, 28, 28)),
        "test": StoredArray((8070, 28, 28)),
    },
    origin=Origin(
        files={
            "drawings": RemoteFile(
                "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",
                GitBlob("016a3536ffe5e1d38e42563a18d7a78bfaf643ec"),
            )
        },
        convert=_convert,
    ),
    prepare=binarize_heldout,
    levels=1,
    dynamic=True,
)

OMNIGLOT_RAW28 = Archive(
    name="omniglot_raw28",
    summary="omniglot in another downscaling and split: its numbers do not compare with published ones",
    file="omniglot_raw28.npz",
    arrays={
        "train": StoredArray((23000, 28, 28), "ce99346d1e83a417c774d20314a2532afbf9d320ec225a38aae8a9c82d2f49e7"),
        "valid": StoredArray((1345, 28, 28), "6a3aa536b859de25b49d080b28669274b681aff81e270ea6bfe29527028df83d"),
        "test": StoredArray((8070, 28, 28), "6af417a194ac1946181047609bfa4bc8f2f21915124ad85b4b6a5561bbd85639"),
    },
    origin=None,
    prepare=binarize_heldout,
    levels=1,
    dynamic=True,
)
"""A stand-in for those who have its file: the original drawings of 105x105 averaged over areas, and 15 of each
character's 20 for training and validation."""
