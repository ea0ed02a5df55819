"""Data sets kept as `<data directory>/<name>.npz`: made once from their public files, verified at every load."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.downloads import RemoteFile, download
from training.splits import SPLITS, Dataset, DatasetError, Pixels, read_arrays

__all__ = ["Archive"]


@dataclass(frozen=True)
class Archive:
    """A data set in one file of arrays `train`, `valid` and `test`, uint8 of shape (N, H, W).

    summary: what it is, in a few words
    files:   what is downloaded, under any keys; kept in `<data directory>/<name>/` until it is converted
    convert: from the downloaded files, under the same keys, to the three arrays
    sha256:  of each array's bytes
    levels:  the greatest pixel value
    """

    name: str
    summary: str
    files: Mapping[str, RemoteFile]
    convert: Callable[[Mapping[str, Path]], Mapping[str, Pixels]]
    sha256: Mapping[str, str]
    levels: int

    def is_there(self, directory: Path) -> bool:
        """Whether it can be loaded without a download."""
        return self._path(directory).is_file()

    def fetch(self, directory: Path) -> None:
        """Download and convert it; raises `DatasetError`, which says how to get it by hand, if that is impossible."""
        paths = download(self.files, directory / self.name)
        arrays = self.convert(paths)
        self._verify(arrays, self.name)
        target = self._path(directory)
        partial = target.with_name(target.name + ".partial")
        with open(partial, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        for path in paths.values():
            path.unlink()
        with suppress(OSError):  # the user may keep something else there
            (directory / self.name).rmdir()

    def load(self, directory: Path) -> Dataset:
        """Read and verify the file; raises `DatasetError` if it is damaged."""
        path = self._path(directory)
        try:
            arrays = read_arrays(path)
            self._verify(arrays, str(path))
        except DatasetError as error:
            remedy = f"delete it, and `python -m training data {self.name}` gets it again"
            raise DatasetError(f"{error}; {remedy}") from error
        return Dataset.of(self.name, {split: arrays[split][:, None] for split in SPLITS}, levels=self.levels)

    def _path(self, directory: Path) -> Path:
        return directory / f"{self.name}.npz"

    def _verify(self, arrays: Mapping[str, Pixels], source: str) -> None:
        for split in SPLITS:
            if split not in arrays:
                raise DatasetError(f"{source} lacks the array {split}")
            images = arrays[split]
            if images.dtype != np.uint8 or images.ndim != 3:
                raise DatasetError(f"{source}: {split} must be uint8 of shape (N, H, W)")
            if (digest := hashlib.sha256(images.tobytes()).hexdigest()) != self.sha256[split]:
                raise DatasetError(f"{source} is damaged: {split} has sha256 {digest}, not {self.sha256[split]}")
