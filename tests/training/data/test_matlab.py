from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_array

from training.data.dataset import DatasetError
from training.data.matlab import column_major_images, read_matlab


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = {"data": np.arange(6.0).reshape(2, 3), "names": "text", "cells": {"a": 1}, "sparse": csc_array(np.eye(2))}
    savemat(tmp_path / "matrices.mat", values, do_compression=True)
    return tmp_path / "matrices.mat"


def test_matrices_are_read_by_name(path: Path) -> None:
    matrices = read_matlab(path, ("data",))
    assert list(matrices) == ["data"]
    assert matrices["data"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("testdata", r"matrices\.mat lacks the matrix testdata"),
        ("names", r"matrices\.mat: names is not a matrix of numbers"),
        ("cells", "cells is not a matrix of numbers"),
        ("sparse", "sparse is not a matrix of numbers"),
    ],
)
def test_what_is_not_there_or_no_matrix_is_named(name: str, message: str, path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        read_matlab(path, ("data", name))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "HDF5"])
def test_a_damaged_file_is_one_clear_line(damage: str, path: Path) -> None:
    contents = {
        "empty": b"",
        "text": b"<html>\n404\n</html>\n" * 20,
        "truncated": path.read_bytes()[:150],
        "HDF5": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400),
    }
    path.write_bytes(contents[damage])
    with pytest.raises(DatasetError, match=r"matrices\.mat cannot be read as a MATLAB file: \S") as info:
        read_matlab(path, ("data",))
    assert len(str(info.value).splitlines()) == 1


def test_without_scipy_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DatasetError, match="pip install scipy"):
        read_matlab(path, ("data",))


def test_pixels_that_run_down_the_columns_make_upright_images() -> None:
    upright = np.arange(12).reshape(2, 2, 3)
    rows = np.stack([image.ravel(order="F") for image in upright])
    images = column_major_images(rows, height=2, width=3)
    assert images.tolist() == upright.tolist()
    assert images.flags.c_contiguous


@pytest.mark.parametrize("shape", [(784, 3), (784,), (3, 28, 28), (3, 785)])
def test_rows_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="images of 28x28 take rows of 784 pixels, not shape"):
        column_major_images(np.zeros(shape))
