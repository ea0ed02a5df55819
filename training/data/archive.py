"""Data sets kept as `.npz` files: downloaded and converted once, verified whenever they are loaded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.data.dataset import SPLITS, Dataset, DatasetError, Pixels, read_arrays
from vampprior.files import atomic_write

__all__ = ["Archive", "RemoteFile", "StoredArray"]

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """A public file.

    checksum: `sha256:<digits>`, or `git:<digits>` for the name of the file's content in a Git repository (the SHA-1 of
              a header with its length and of its bytes), which is public even where nobody published a sha256
    """

    url: str
    checksum: str

    @property
    def name(self) -> str:
        """The last part of the address, which becomes the name of the local file."""
        return self.url.rpartition("/")[2]

    def matches(self, path: Path) -> bool:
        """True if the file at that path has this checksum."""
        if not path.is_file():
            return False
        kind, _, digest = self.checksum.partition(":")
        hasher = hashlib.sha256()
        if kind == "git":
            hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hasher).hexdigest() == digest


@dataclass(frozen=True)
class StoredArray:
    """Images in the `.npz` file: uint8 of shape (N, H, W).

    sha256: of the array's bytes; empty if it is unknown, as the original files could not be read when this was written
    """

    shape: tuple[int, int, int]
    sha256: str = ""

    def verify(self, array: Pixels, what: str) -> None:
        """Raise `DatasetError`, which begins with `what`, if the array is not this one."""
        if array.dtype != np.uint8 or array.shape != self.shape:
            raise DatasetError(f"{what} must be uint8 of shape {self.shape}, not {array.dtype} of {array.shape}")
        if self.sha256 and (digest := hashlib.sha256(array.tobytes()).hexdigest()) != self.sha256:
            raise DatasetError(f"{what} is damaged: it has sha256 {digest}, not {self.sha256}")

    def __str__(self) -> str:
        return f"{self.shape}" + (f" with sha256 {self.sha256}" if self.sha256 else "")


def _unchanged(arrays: Mapping[str, Pixels]) -> Mapping[str, Pixels]:
    return arrays


@dataclass(frozen=True)
class Archive:
    """A data set whose images lie in an `.npz` file of the data directory.

    name:      name of the data set
    summary:   a short description
    file:      name of the `.npz` file, which several data sets may share
    arrays:    arrays that the file must hold, by name
    downloads: public files by any key; empty if the data set cannot be downloaded
    convert:   function from the downloaded files, by the same keys, to the arrays
    prepare:   function from the arrays to the images (N, H, W) of `train`, `valid` and `test`
    levels:    greatest pixel value of the validation and test images
    dynamic:   see `Dataset`
    """

    name: str
    summary: str
    file: str
    arrays: Mapping[str, StoredArray]
    levels: int
    downloads: Mapping[str, RemoteFile] = field(default_factory=dict)
    convert: Callable[[Mapping[str, Path]], Mapping[str, Pixels]] = lambda paths: {}  # noqa: ARG005
    prepare: Callable[[Mapping[str, Pixels]], Mapping[str, Pixels]] = _unchanged
    dynamic: bool = False

    def is_available(self, directory: Path) -> bool:
        """True if the `.npz` file exists."""
        return (directory / self.file).is_file()

    def fetch(self, directory: Path) -> None:
        """Download and convert the data; raises `DatasetError`, which says how to get them by hand.

        Of several processes that need the data at the same time, one downloads and the others wait.
        """
        target = directory / self.file
        if not self.downloads:
            wanted = ", ".join(f"{name} {array}" for name, array in self.arrays.items())
            raise DatasetError(
                f"{self.name} cannot be downloaded; put it by hand into {target.absolute()}, as uint8 arrays {wanted}"
            )
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{self.file}.lock"):
            if not self.is_available(directory):
                self._fetch(target)

    def _fetch(self, target: Path) -> None:
        folder = target.with_suffix("")
        paths = _download(self.downloads, folder)
        arrays = self.convert(paths)
        self._verify(arrays, self.name)
        with atomic_write(target) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        for path in paths.values():
            path.unlink()
        with suppress(OSError):  # the user may keep other files in it
            folder.rmdir()

    def load(self, directory: Path) -> Dataset:
        """Read and verify the file; raises `DatasetError` if it is damaged."""
        path = directory / self.file
        try:
            arrays = read_arrays(path)
            self._verify(arrays, str(path))
        except DatasetError as error:
            remedy = "downloads it again" if self.downloads else "says what it must hold"
            raise DatasetError(f"{error}; delete it, and `python -m training data {self.name}` {remedy}") from error
        images = self.prepare(arrays)
        splits = {split: images[split][:, None] for split in SPLITS}
        return Dataset.of(self.name, splits, self.levels, self.dynamic).with_labels(arrays)

    def _verify(self, arrays: Mapping[str, Pixels], source: str) -> None:
        for name, stored in self.arrays.items():
            if name not in arrays:
                raise DatasetError(f"{source} lacks the array {name}")
            stored.verify(arrays[name], f"{source}: {name}")


def _download(files: Mapping[str, RemoteFile], folder: Path) -> dict[str, Path]:
    """Download the files that the folder lacks, with a progress bar on standard error; returns their paths by key."""
    missing = [file for file in files.values() if not file.matches(folder / file.name)]
    if missing:
        _retrieve(missing, folder)
    return {key: folder / file.name for key, file in files.items()}


def _retrieve(files: Iterable[RemoteFile], folder: Path) -> None:
    urls = ", ".join(file.url for file in files)
    by_hand = f"put the files by hand into {folder.absolute()} and try again: {urls}"
    try:
        import pooch
    except ImportError as error:
        raise DatasetError(f"downloads need pooch: pip install pooch, or {by_hand}") from error
    pooch.get_logger().setLevel(logging.WARNING)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        for file in files:
            path, bar = folder / file.name, _Bar(progress, file.name)
            path.unlink(missing_ok=True)
            try:
                pooch.retrieve(
                    file.url,
                    known_hash=file.checksum if file.checksum.startswith("sha256:") else None,
                    fname=file.name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(bar, timeout=TIMEOUT_SECONDS, chunk_size=65536),
                )
                if not file.matches(path):
                    path.unlink()
                    raise ValueError(f"its checksum is not {file.checksum}")
            except (OSError, ValueError) as error:  # errors of requests are OSErrors
                reason = " ".join(str(error).split())
                raise DatasetError(f"cannot download {file.url} ({reason}); {by_hand}") from error


class _Bar:
    """The interface that pooch expects of a progress bar, drawn by rich."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._task = progress.add_task(name, visible=False)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, num_bytes: int) -> None:
        self._progress.update(self._task, total=num_bytes or None, visible=True)

    def update(self, num_bytes: int) -> None:
        self._progress.advance(self._task, num_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)
