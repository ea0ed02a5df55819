"""MATLAB files of images, one a row or a column, each with its pixels column by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.splits import DatasetError

__all__ = ["column_major_images", "read_matlab"]


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The matrices of numbers of these names; raises `DatasetError` if one is not there or the file is no MATLAB file.

    Files of version 7.3 and later are HDF5 files, which are not read.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError("MATLAB files need SciPy: pip install scipy") from error
    try:
        variables = loadmat(path, variable_names=names)
    except Exception as error:  # a damaged file raises whatever SciPy, zlib and struct stumble over
        raise DatasetError(f"{path} cannot be read as a MATLAB file: {' '.join(str(error).split())}") from error
    for name in names:
        if name not in variables:
            raise DatasetError(f"{path} lacks the matrix {name}")
        if not isinstance(variables[name], np.ndarray) or variables[name].dtype.kind not in "buif":
            raise DatasetError(f"{path}: {name} is no matrix of numbers")
    return {name: variables[name] for name in names}


def column_major_images(rows: NDArray[Any], height: int = 28, width: int = 28) -> NDArray[Any]:
    """Upright images (N, H, W) from rows (N, H * W) in MATLAB's order; raises `DatasetError` at another shape."""
    if rows.ndim != 2 or rows.shape[1] != height * width:
        raise DatasetError(f"images of {height}x{width} make rows of {height * width} pixels, not shape {rows.shape}")
    return np.ascontiguousarray(rows.reshape(-1, width, height).transpose(0, 2, 1))
