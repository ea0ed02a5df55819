"""Images in MATLAB files: one per row or column of a matrix, with pixels in column-major order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import DatasetError

__all__ = ["column_major_images", "read_matlab"]


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Numeric matrices by name; raises `DatasetError` if one is missing or the file is damaged.

    Files of version 7.3 and later, which are HDF5 files, are not supported.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError("MATLAB files need SciPy: pip install scipy") from error
    try:
        variables = loadmat(path, variable_names=names)
    except Exception as error:  # SciPy, zlib and struct raise many types for a damaged file
        raise DatasetError(f"{path} cannot be read as a MATLAB file: {' '.join(str(error).split())}") from error
    for name in names:
        if name not in variables:
            raise DatasetError(f"{path} lacks the matrix {name}")
        if not isinstance(variables[name], np.ndarray) or variables[name].dtype.kind not in "buif":
            raise DatasetError(f"{path}: {name} is not a matrix of numbers")
    return {name: variables[name] for name in names}


def column_major_images(rows: NDArray[Any], height: int = 28, width: int = 28) -> NDArray[Any]:
    """Images (N, H, W) from rows (N, H * W) of column-major pixels; raises `DatasetError` if the shape is another."""
    if rows.ndim != 2 or rows.shape[1] != height * width:
        raise DatasetError(f"images of {height}x{width} take rows of {height * width} pixels, not shape {rows.shape}")
    return np.ascontiguousarray(rows.reshape(-1, width, height).transpose(0, 2, 1))
