"""Files from their public homes, each checked against its sha256."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.splits import DatasetError

__all__ = ["RemoteFile", "download"]

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file's address and the sha256 of its bytes."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The last part of its address, under which it is kept."""
        return self.url.rpartition("/")[2]


def download(files: Mapping[str, RemoteFile], folder: Path) -> dict[str, Path]:
    """Fetch the files into a folder, with a progress bar on standard error; those there already stay.

    Raises `DatasetError`, which says how to get them by hand, if one cannot be had or is not what it should be.
    """
    try:
        import pooch
    except ImportError as error:
        raise DatasetError(f"downloads need pooch: pip install pooch, or {_by_hand(files, folder)}") from error
    pooch.get_logger().setLevel(logging.WARNING)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    paths = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for key, file in files.items():
            bar = _Bar(progress, file.name)
            fetch = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT_SECONDS, chunk_size=65536)
            try:
                got = pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, folder, downloader=fetch)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong hash is a ValueError
                reason = " ".join(str(error).split())
                raise DatasetError(f"cannot download {file.url} ({reason}); {_by_hand(files, folder)}") from error
            paths[key] = Path(got)
    return paths


def _by_hand(files: Mapping[str, RemoteFile], folder: Path) -> str:
    urls = ", ".join(file.url for file in files.values())
    return f"put the files by hand into {folder.absolute()} and try again: {urls}"


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
