"""The handwritten digits of scikit-learn: real images of 8x8 pixels that need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, DatasetError, shuffled_splits

__all__ = ["DIGITS"]


class Digits:
    """1797 digits (Alpaydin & Kaynak, 1998), split at random into 1297 / 250 / 250.

    The original pixels are 0 to 16; here they are 1 from 8 upwards and 0 below.
    """

    name = "digits"
    summary = "handwritten digits of scikit-learn, 8x8, 1297 / 250 / 250 images, black and white"
    levels = 1

    def is_available(self, directory: Path) -> bool:  # noqa: ARG002
        """True if scikit-learn is installed."""
        return find_spec("sklearn") is not None

    def fetch(self, directory: Path) -> None:  # noqa: ARG002
        """Raise `DatasetError`, since an installation is all that can be missing."""
        raise DatasetError("the digits are part of scikit-learn, which is not installed: pip install scikit-learn")

    def load(self, directory: Path) -> Dataset:  # noqa: ARG002
        """The split digits."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = digits.images.astype(np.uint8)[:, None]
        labels = shuffled_splits(digits.target, num_valid=250, num_test=250)
        dataset = Dataset.of(self.name, shuffled_splits(images, num_valid=250, num_test=250), levels=16).thresholded()
        return dataset.with_labels({f"{split}_labels": column for split, column in labels.items()})


DIGITS = Digits()
