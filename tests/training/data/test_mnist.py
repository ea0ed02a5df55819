from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from training.data.archive import Archive
from training.data.dataset import DatasetError, Pixels, binarize_heldout
from training.data.mnist import DYNAMIC_MNIST, FASHION_MNIST, read_idx

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


CONTENT = bytes.fromhex("00000803 00000002 00000001 00000003") + bytes([0, 127, 255, 1, 2, 3])


@pytest.mark.parametrize("content", [CONTENT, gzip.compress(CONTENT, mtime=0)], ids=["plain", "gzipped"])
def test_an_idx_file_gives_its_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(content)
    images = read_idx(tmp_path / "images")
    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 127, 255]], [[1, 2, 3]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with 00000803, but this one begins with $"),
        (b"<html>", "begins with 00000803, but this one begins with 3c68746d$"),
        (bytes.fromhex("00000801 00000002") + b"\1\2", "begins with 00000801"),  # labels
        (CONTENT[:10], "header of an IDX file has 16 bytes, but this file 10"),
        (CONTENT[:-1], r"images of shape \(2, 1, 3\) take an IDX file of 22 bytes, but this one has 21"),
        (CONTENT + b"\0", "of 22 bytes, but this one has 23"),
        (CONTENT[:4] + b"\xff" * 12, r"images of shape \(4294967295, 4294967295, 4294967295\)"),
        (gzip.compress(CONTENT, mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(CONTENT, mtime=0)[:-8] + bytes(8), "cannot be unpacked: CRC check failed"),
        (b"\x1f\x8b\x08" + bytes(20), "cannot be unpacked"),
    ],
)
def test_anything_else_is_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as info:
        read_idx(tmp_path / "images")
    assert str(info.value).startswith(str(tmp_path / "images"))
