"""Files from their public homes, each checked against its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.data.checksums import Checksum
from training.data.splits import DatasetError

__all__ = ["RemoteFile", "download"]

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file's address and the checksum of its bytes."""

    url: str
    checksum: Checksum

    @property
    def name(self) -> str:
        """The last part of its address, under which it is kept."""
        return self.url.rpartition("/")[2]

    def verify(self, path: Path) -> None:
        """Raise `DatasetError` if what lies at that path is not this file."""
        if (found := self.checksum.of(path)) != self.checksum:
            raise DatasetError(f"what came has {found}, not {self.checksum.digest}")


def download(files: Mapping[str, RemoteFile], folder: Path) -> dict[str, Path]:
    """Fetch the files into a folder, with a progress bar on standard error; those there already stay.

    Raises `DatasetError`, which says how to get them by hand, if one cannot be had or is not what it should be.
    """
    paths = {key: folder / file.name for key, file in files.items()}
    missing = [file for key, file in files.items() if not _is_there(file, paths[key])]
    if missing:
        urls = ", ".join(file.url for file in missing)
        _fetch(missing, folder, f"put the files by hand into {folder.absolute()} and try again: {urls}")
    return paths


def _is_there(file: RemoteFile, path: Path) -> bool:
    return path.is_file() and file.checksum.of(path) == file.checksum


def _fetch(files: Iterable[RemoteFile], folder: Path, remedy: str) -> None:
    try:
        from pooch import HTTPDownloader
    except ImportError as error:
        raise DatasetError(f"downloads need pooch: pip install pooch, or {remedy}") from error
    folder.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for file in files:
            fetch = HTTPDownloader(_Bar(progress, file.name), timeout=TIMEOUT_SECONDS, chunk_size=65536)
            partial = folder / f"{file.name}.partial"
            try:
                fetch(file.url, str(partial), None)
                file.verify(partial)
            except (OSError, DatasetError) as error:  # requests' errors are OSErrors
                partial.unlink(missing_ok=True)
                reason = " ".join(str(error).split())
                raise DatasetError(f"cannot download {file.url} ({reason}); {remedy}") from error
            partial.replace(folder / file.name)


class _Bar:
    """What pooch asks of a progress bar, drawn by rich."""

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
