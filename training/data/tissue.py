"""Patches of a photograph of stained tissue that comes with scikit-image: colour images that need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, DatasetError, Pixels
from vampprior.preparation import Preparation

__all__ = ["TISSUE"]

SIDE, PATCH = 16, 32
"""Pixels a side of the images, and of the parts of the photograph that are reduced to them."""
COLUMNS = {"train": (0, 320, 8), "valid": (320, 416, 16), "test": (416, 512, 16)}
"""First and last column of the part of the photograph from which each split comes, and the distance of its patches."""
PREPARATION = Preparation((SIDE, SIDE), "rgb")


class Tissue:
    """Patches of `skimage.data.immunohistochemistry`: colonic glands, stained for the protein FHL2 and counterstained.

    The photograph has 512x512 pixels and was taken at the Center for Microscopy and Molecular Imaging. scikit-image
    says that it has no known copyright restrictions. Patches of 32x32 pixels are reduced to 16x16. They overlap within
    a split, but not between splits, which come from different columns of the photograph.
    """

    name = "tissue"
    summary = "patches of a photograph of tissue of scikit-image, 16x16, 2257 / 155 / 155 images, colour"
    levels = 255

    def is_available(self, directory: Path) -> bool:  # noqa: ARG002
        """True if scikit-image is installed."""
        return find_spec("skimage") is not None

    def fetch(self, directory: Path) -> None:  # noqa: ARG002
        """Raise `DatasetError`, since an installation is all that can be missing."""
        raise DatasetError("the tissue is part of scikit-image, which is not installed: pip install scikit-image")

    def load(self, directory: Path) -> Dataset:  # noqa: ARG002
        """The split patches."""
        from skimage import data

        photograph = data.immunohistochemistry()  # type: ignore[no-untyped-call]
        splits = {split: _patches(photograph[:, start:stop], step) for split, (start, stop, step) in COLUMNS.items()}
        return Dataset.of(self.name, splits, self.levels).prepared(PREPARATION, [])


def _patches(photograph: Pixels, step: int) -> Pixels:
    """Prepared patches (N, 3, 16, 16) of a photograph (H, W, 3), row by row, `step` pixels apart."""
    height, width, _ = photograph.shape
    return np.stack(
        [
            PREPARATION.prepare(photograph[top : top + PATCH, left : left + PATCH])
            for top in range(0, height - PATCH + 1, step)
            for left in range(0, width - PATCH + 1, step)
        ]
    )


TISSUE = Tissue()
