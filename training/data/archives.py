"""Data sets kept as `.npz` files in the data directory: made once from public files, verified at every load."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.downloads import RemoteFile, download
from training.data.splits import SPLITS, Dataset, DatasetError, Pixels, read_arrays

__all__ = ["Archive", "Origin", "StoredArray"]


@dataclass(frozen=True)
class StoredArray:
    """Images as they are stored: uint8 of this shape, (N, H, W).

    sha256: of its bytes, or None if nobody here has seen them: then the checksums of the downloaded files and those
            inside the `.npz` file are what guards them
    """

    shape: tuple[int, int, int]
    sha256: str | None = None

    def verify(self, array: Pixels, what: str) -> None:
        """Raise `DatasetError` if that array is not this one."""
        if array.dtype != np.uint8 or array.shape != self.shape:
            raise DatasetError(f"{what} must be uint8 of shape {self.shape}, not {array.dtype} of {array.shape}")
        if self.sha256 and (digest := hashlib.sha256(array.tobytes()).hexdigest()) != self.sha256:
            raise DatasetError(f"{what} is damaged: it has sha256 {digest}, not {self.sha256}")

    def __str__(self) -> str:
        return f"{self.shape}" + (f" with sha256 {self.sha256}" if self.sha256 else "")


@dataclass(frozen=True)
class Origin:
    """Where the arrays come from.

    files:   what is downloaded, under any keys
    convert: from the downloaded files, under the same keys, to the arrays that are stored
    """

    files: Mapping[str, RemoteFile]
    convert: Callable[[Mapping[str, Path]], Mapping[str, Pixels]]


def as_stored(arrays: Mapping[str, Pixels]) -> Mapping[str, Pixels]:
    """The splits of a file that holds them as the model is to see them."""
    return arrays


@dataclass(frozen=True)
class Archive:
    """A data set whose images lie in an `.npz` file.

    name:    of the data set
    summary: what it is, in a few words
    file:    the file's name in the data directory; several data sets may share it
    arrays:  what the file must hold; it may hold more
    origin:  where it comes from, or None if there is nothing to download
    prepare: from the stored arrays to the images (N, H, W) of `train`, `valid` and `test`
    levels:  the greatest pixel value of the validation and test images
    dynamic: whether the training images are gray levels to be binarized afresh at every visit (see `Dataset`)
    """

    name: str
    summary: str
    file: str
    arrays: Mapping[str, StoredArray]
    origin: Origin | None
    levels: int
    dynamic: bool = False
    prepare: Callable[[Mapping[str, Pixels]], Mapping[str, Pixels]] = as_stored

    def is_there(self, directory: Path) -> bool:
        """Whether it can be loaded without a download."""
        return (directory / self.file).is_file()

    def fetch(self, directory: Path) -> None:
        """Download and convert it; raises `DatasetError`, which says how to get it by hand, if that is impossible."""
        target = directory / self.file
        if self.origin is None:
            wanted = ", ".join(f"{name} {array}" for name, array in self.arrays.items())
            raise DatasetError(
                f"{self.name} cannot be downloaded; put it by hand into {target.absolute()}, as uint8 arrays {wanted}"
            )
        folder = target.with_suffix("")
        paths = download(self.origin.files, folder)
        arrays = self.origin.convert(paths)
        self._verify(arrays, self.name)
        _write(target, arrays)
        for path in paths.values():
            path.unlink()
        with suppress(OSError):  # the user may keep something else there
            folder.rmdir()

    def load(self, directory: Path) -> Dataset:
        """Read and verify the file; raises `DatasetError` if it is damaged."""
        path = directory / self.file
        try:
            arrays = read_arrays(path)
            self._verify(arrays, str(path))
        except DatasetError as error:
            then = "gets it again" if self.origin else "says what it must hold"
            raise DatasetError(f"{error}; delete it, and `python -m training data {self.name}` {then}") from error
        images = self.prepare(arrays)
        splits = {split: images[split][:, None] for split in SPLITS}
        return Dataset.of(self.name, splits, levels=self.levels, dynamic=self.dynamic)

    def _verify(self, arrays: Mapping[str, Pixels], source: str) -> None:
        for name, stored in self.arrays.items():
            if name not in arrays:
                raise DatasetError(f"{source} lacks the array {name}")
            stored.verify(arrays[name], f"{source}: {name}")


def _write(path: Path, arrays: Mapping[str, Pixels]) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
