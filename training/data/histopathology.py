"""Histopathology (Tomczak & Welling, 2016): gray patches of photographs of stained tissue."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import DatasetError, Pixels, check_range
from training.data.pickles import read_pickle

__all__ = ["HISTOPATHOLOGY"]

MEMBER = "histopathology.pkl"
KEYS = {"train": "training", "valid": "validation", "test": "test"}


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    path = paths["patches"]
    patches = read_pickle(_unpack(path), f"{path}: {MEMBER}")
    if not (isinstance(patches, dict) and set(KEYS.values()) <= set(patches)):
        raise DatasetError(f"{path}: {MEMBER} is not a dict of {', '.join(KEYS.values())}")
    return {split: to_bins(patches[key], f"{path}: {key}") for split, key in KEYS.items()}


def _unpack(path: Path) -> bytes:
    """The content of the pickle, in whatever folder of the tar file it is."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if PurePosixPath(member.name).name == MEMBER and (file := archive.extractfile(member)):
                    return file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error
    raise DatasetError(f"{path} holds no {MEMBER}")


def to_bins(patches: object, what: str) -> Pixels:
    """Gray levels v (N, 28, 28) whose bin [v / 256, (v + 1) / 256) holds the fraction of a pixel.

    Fractions are first clipped to [1/512, 1 - 1/512], as in the paper. Raises `DatasetError`, which begins with `what`,
    if they are not images of fractions between 0 and 1.
    """
    try:
        fractions = np.asarray(patches, dtype=np.float64).reshape(-1, 28, 28)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} is not made of images of 28x28: {error}") from error
    check_range(fractions, 1, what)
    return np.floor(256.0 * fractions.clip(1 / 512, 1 - 1 / 512)).astype(np.uint8)


HISTOPATHOLOGY = Archive(
    name="histopathology",
    summary="patches of tissue, 28x28, 6800 / 2000 / 2000 images, gray",
    file="histopathology.npz",
    arrays={
        "train": StoredArray((6800, 28, 28)),
        "valid": StoredArray((2000, 28, 28)),
        "test": StoredArray((2000, 28, 28)),
    },
    downloads={
        "patches": RemoteFile(
            "https://raw.githubusercontent.com/jmtomczak/vae_householder_flow/master/datasets/histopathologyGray/"
            "histopathology.pkl.tar.gz",
            "git:40e100f65969106cbcf3c0f6f29e70e8e7e14fe3",
        )
    },
    convert=_convert,
    levels=255,
)
