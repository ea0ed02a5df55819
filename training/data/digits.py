"""The handwritten digits that come with scikit-learn: real images of 8x8 pixels, without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from training.data.splits import Dataset, DatasetError, shuffled_splits

__all__ = ["Digits"]


class Digits:
    """1797 digits (Alpaydin & Kaynak, 1998), split at random into 1297 / 250 / 250.

    Pixels are 0 to 16 in the original; here they are 1 from 8 on and 0 below.
    """

    name = "digits"
    summary = "handwritten digits that come with scikit-learn, 8x8, 1297 / 250 / 250 images, black and white"

    def is_there(self, directory: Path) -> bool:  # noqa: ARG002
        """Whether scikit-learn is installed."""
        return find_spec("sklearn") is not None

    def fetch(self, directory: Path) -> None:
        """Nothing to download; raises `DatasetError` if scikit-learn is not installed."""
        if not self.is_there(directory):
            raise DatasetError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")

    def load(self, directory: Path) -> Dataset:
        """The split digits; raises `DatasetError` if scikit-learn is not installed."""
        self.fetch(directory)
        from sklearn.datasets import load_digits

        images = load_digits().images.astype(np.uint8)[:, None]
        splits = shuffled_splits(images, num_valid=250, num_test=250)
        return Dataset.of(self.name, splits, levels=16).thresholded()
