"""Histopathology (Tomczak & Welling, 2016): gray patches of photographs of stained tissue."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from training.data.archives import Archive, Origin, StoredArray
from training.data.checksums import GitBlob
from training.data.downloads import RemoteFile
from training.data.gray_levels import bins
from training.data.pickles import read_pickle
from training.data.splits import DatasetError, Pixels

__all__ = ["HISTOPATHOLOGY"]

MEMBER = "histopathology.pkl"
KEYS = {"train": "training", "valid": "validation", "test": "test"}


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    path = paths["patches"]
    patches = read_pickle(_unpack(path), f"{path}: {MEMBER}")
    if not (isinstance(patches, dict) and set(KEYS.values()) <= set(patches)):
        raise DatasetError(f"{path}: {MEMBER} is not a dict of {', '.join(KEYS.values())}")
    return {split: bins(_images(patches[key], f"{path}: {key}"), f"{path}: {key}") for split, key in KEYS.items()}


def _unpack(path: Path) -> bytes:
    """The pickle in the tar file, in whatever folder of it."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if PurePosixPath(member.name).name == MEMBER and (file := archive.extractfile(member)):
                    return file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error
    raise DatasetError(f"{path} holds no {MEMBER}")


def _images(patches: object, what: str) -> NDArray[np.float64]:
    try:
        return np.asarray(patches, dtype=np.float64).reshape(-1, 28, 28)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} is not made of images of 28x28: {error}") from error


HISTOPATHOLOGY = Archive(
    name="histopathology",
    summary="patches of tissue, 28x28, 6800 / 2000 / 2000 images, gray",
    file="histopathology.npz",
    arrays={
        "train": StoredArray((6800, 28, 28)),
        "valid": StoredArray((2000, 28, 28)),
        "test": StoredArray((2000, 28, 28)),
    },
    origin=Origin(
        files={
            "patches": RemoteFile(
                "https://raw.githubusercontent.com/jmtomczak/vae_householder_flow/master/datasets/histopathologyGray/"
                "histopathology.pkl.tar.gz",
                GitBlob("40e100f65969106cbcf3c0f6f29e70e8e7e14fe3"),
            )
        },
        convert=_convert,
    ),
    levels=255,
)
