"""Gray levels 0 to 255 from images whose pixels are fractions, 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.splits import DatasetError, Pixels

__all__ = ["bins", "nearest_levels"]


def nearest_levels(fractions: NDArray[Any], what: str) -> Pixels:
    """The levels v with v / 255 next to the fractions; raises `DatasetError` if these are not from 0 to 1."""
    _check(fractions, what)
    return np.rint(255.0 * fractions).astype(np.uint8)


def bins(fractions: NDArray[Any], what: str) -> Pixels:
    """The levels v whose bin [v / 256, (v + 1) / 256) holds the fractions once they are clipped to the bins' centers.

    So does the paper clip Histopathology, from 1/512 to 1 - 1/512. Raises `DatasetError` if they are not from 0 to 1.
    """
    _check(fractions, what)
    return np.floor(256.0 * fractions.clip(1 / 512, 1 - 1 / 512)).astype(np.uint8)


def _check(fractions: NDArray[Any], what: str) -> None:
    if fractions.dtype.kind != "f":
        raise DatasetError(f"{what} holds {fractions.dtype} values, not fractions")
    if fractions.size and not (fractions.min() >= 0 and fractions.max() <= 1):  # so that NaN fails too
        raise DatasetError(f"{what} has values outside 0 to 1: from {fractions.min()} to {fractions.max()}")
