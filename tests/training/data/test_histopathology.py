from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.archive import Archive
from training.data.dataset import DatasetError, Pixels
from training.data.histopathology import HISTOPATHOLOGY, to_bins

AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]


def tar(files: Mapping[str, bytes]) -> bytes:
    with io.BytesIO() as content:
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, file in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(file)
                archive.addfile(member, io.BytesIO(file))
        return gzip.compress(content.getvalue(), mtime=0)  # the same bytes at any time, since tests are named by them


@pytest.fixture
def levels() -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    numbers = {"train": 3, "valid": 2, "test": 1}
    return {split: rng.integers(0, 256, (number, 28, 28), dtype=np.uint8) for split, number in numbers.items()}


@pytest.fixture
def patches(levels: dict[str, Pixels]) -> dict[str, Any]:
    """Fractions, in arrays or in lists of them."""
    train, valid, test = (images / 255 for images in levels.values())
    return {"training": list(train), "validation": valid.astype(np.float32), "test": [image.ravel() for image in test]}


def test_patches_become_levels(
    levels: dict[str, Pixels], patches: dict[str, Any], at_home: AtHome, tmp_path: Path
) -> None:
    pickled = pickle.dumps(patches, protocol=2)
    content = tar({"._histopathology.pkl": b"of another system", "data/histopathology.pkl": pickled})
    small = at_home(HISTOPATHOLOGY, {"patches": content}, levels)
    small.fetch(tmp_path)
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("histopathology", 255, False)
    for split, images in levels.items():
        assert np.array_equal(getattr(dataset, split)[:, 0], images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": 2.0 * np.ones((1, 28, 28))}, "test has values outside 0 to 1"),
        ({"test": np.ones((1, 27, 28))}, "test is not made of images of 28x28"),
        ({"test": [np.ones((28, 28)), np.ones(3)]}, "test is not made of images of 28x28"),
        ({"test": "text"}, "test is not made of images of 28x28"),
        (
            {"test": np.ones((2, 28, 28))},
            r"histopathology: test must be uint8 of shape \(1, 28, 28\), not uint8 of \(2,",
        ),
    ],
)
def test_other_patches_are_refused(
    change: dict[str, Any],
    message: str,
    levels: dict[str, Pixels],
    patches: dict[str, Any],
    at_home: AtHome,
    tmp_path: Path,
) -> None:
    content = tar({"histopathology.pkl": pickle.dumps(patches | change)})
    with pytest.raises(DatasetError, match=message):
        at_home(HISTOPATHOLOGY, {"patches": content}, levels).fetch(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", r"histopathology\.pkl\.tar\.gz cannot be unpacked"),
        (tar({"histopathology.pkl": bytes(100_000)})[:-20], r"histopathology\.pkl\.tar\.gz cannot be unpacked"),
        (tar({"README": b""}), r"histopathology\.pkl\.tar\.gz holds no histopathology\.pkl"),
        (tar({"histopathology.pkl": b""}), r"tar\.gz: histopathology\.pkl cannot be read as a pickle of arrays"),
        (tar({"histopathology.pkl": pickle.dumps({"training": 1})}), "is not a dict of training, validation, test"),
        (tar({"histopathology.pkl": pickle.dumps([1])}), "is not a dict of training, validation, test"),
    ],
)
def test_another_file_is_refused(
    content: bytes, message: str, levels: dict[str, Pixels], at_home: AtHome, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        at_home(HISTOPATHOLOGY, {"patches": content}, levels).fetch(tmp_path)


def test_a_fraction_falls_into_the_bin_that_holds_it() -> None:
    fractions = np.zeros((1, 28, 28))
    fractions[0, 0, :7] = [0, 0.99 / 256, 1 / 256, 1.99 / 256, 254.99 / 256, 255 / 256, 1]
    assert to_bins(fractions, "it")[0, 0, :7].tolist() == [0, 0, 1, 1, 254, 255, 255]
