from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from training.data.archives import Archive
from training.data.binarization import binarize_heldout
from training.data.mnist import DYNAMIC_MNIST, FASHION_MNIST
from training.data.splits import Pixels

AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]


@pytest.fixture
def gray() -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    numbers = {"train": 3, "valid": 10_000, "test": 5}
    return {split: rng.integers(0, 256, (number, 2, 3), dtype=np.uint8) for split, number in numbers.items()}


@pytest.fixture
def files(gray: dict[str, Pixels]) -> dict[str, bytes]:
    def idx(images: Pixels) -> bytes:
        return bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes() + images.tobytes()

    train = np.concatenate([gray["train"], gray["valid"]])
    return {"train": gzip.compress(idx(train)), "test": gzip.compress(idx(gray["test"]))}


def test_the_last_training_images_validate(
    gray: dict[str, Pixels], files: dict[str, bytes], at_home: AtHome, tmp_path: Path
) -> None:
    small = at_home(FASHION_MNIST, files, gray)
    small.fetch(tmp_path)
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("fashion_mnist", 255, False)
    for split, images in gray.items():
        assert np.array_equal(getattr(dataset, split)[:, 0], images)


def test_dynamic_mnist_is_gray_for_training_and_binary_for_the_rest(
    gray: dict[str, Pixels], files: dict[str, bytes], at_home: AtHome, tmp_path: Path
) -> None:
    small = at_home(DYNAMIC_MNIST, files, gray)
    small.fetch(tmp_path)
    assert (tmp_path / "mnist.npz").exists()
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("dynamic_mnist", 1, True)
    for split, images in binarize_heldout(gray).items():
        assert np.array_equal(getattr(dataset, split)[:, 0], images)
    assert dataset.describe() == small.load(tmp_path).describe()
