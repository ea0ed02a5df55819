"""Static MNIST: the fixed binarization of Larochelle & Murray (2011), from its three text files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import DatasetError, Pixels

__all__ = ["STATIC_MNIST", "parse_amat"]

HOME = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"


def parse_amat(text: bytes, height: int = 28, width: int = 28) -> Pixels:
    """Images (N, H, W) of zeros and ones from the text of an `.amat` file.

    Each line is an image: its pixels as digits `0` and `1` with one space between them. Raises `DatasetError` if the
    text has another form.
    """
    pixels = height * width
    if not text or len(text) % (2 * pixels):
        raise DatasetError(f"an .amat file has rows of {2 * pixels} bytes, but this one has {len(text)} bytes")
    rows = np.frombuffer(text, np.uint8).reshape(-1, pixels, 2)
    digits, separators = rows[..., 0], rows[..., 1]
    if not ((separators[:, :-1] == ord(" ")).all() and (separators[:, -1] == ord("\n")).all()):
        raise DatasetError("an .amat file must have one space between pixels and a line feed after each image")
    if not np.isin(digits, (ord("0"), ord("1"))).all():
        raise DatasetError("the pixels of an .amat file must be 0 or 1")
    return (digits - np.uint8(ord("0"))).reshape(-1, height, width)


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    return {split: parse_amat(path.read_bytes()) for split, path in paths.items()}


STATIC_MNIST = Archive(
    name="static_mnist",
    summary="MNIST with a fixed binarization, 28x28, 50000 / 10000 / 10000 images",
    file="static_mnist.npz",
    arrays={
        "train": StoredArray((50000, 28, 28), "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a"),
        "valid": StoredArray((10000, 28, 28), "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e"),
        "test": StoredArray((10000, 28, 28), "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86"),
    },
    downloads={
        "train": RemoteFile(
            f"{HOME}train.amat", "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
        ),
        "valid": RemoteFile(
            f"{HOME}valid.amat", "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
        ),
        "test": RemoteFile(
            f"{HOME}test.amat", "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
        ),
    },
    convert=_convert,
    levels=1,
)
