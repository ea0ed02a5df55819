"""Data sets by name. A new one is a file in this folder and an entry in `SOURCES`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from training.data.caltech101 import CALTECH101_SILHOUETTES
from training.data.dataset import SPLITS, Dataset, DatasetError, Pixels
from training.data.digits import DIGITS
from training.data.frey_faces import FREY_FACES
from training.data.histopathology import HISTOPATHOLOGY
from training.data.mnist import DYNAMIC_MNIST, FASHION_MNIST
from training.data.omniglot import OMNIGLOT, OMNIGLOT_RAW28
from training.data.own_images import Wanted, load_own_images
from training.data.static_mnist import STATIC_MNIST
from training.data.tissue import TISSUE
from vampprior.likelihoods import Likelihood

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Pixels",
    "Source",
    "Wanted",
    "data_directory",
    "load_dataset",
]


class Source(Protocol):
    """A data set that can be loaded by its name.

    name:    the name in recipes and on cards
    summary: a short description for `python -m training data`
    levels:  greatest pixel value: 1 for black and white images, 255 for gray ones
    """

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def levels(self) -> int: ...

    def is_available(self, directory: Path) -> bool:
        """True if `load` needs no `fetch` first."""

    def fetch(self, directory: Path) -> None:
        """Download into the data directory; raises `DatasetError`, which says how to get the data by hand."""

    def load(self, directory: Path) -> Dataset:
        """Read and verify the data; raises `DatasetError` if they are damaged."""


SOURCES: tuple[Source, ...] = (
    STATIC_MNIST,
    DIGITS,
    DYNAMIC_MNIST,
    OMNIGLOT,
    OMNIGLOT_RAW28,
    CALTECH101_SILHOUETTES,
    *FREY_FACES,
    HISTOPATHOLOGY,
    FASHION_MNIST,
    TISSUE,
)
DATASETS = {source.name: source for source in SOURCES}


def data_directory() -> Path:
    """The folder of the data sets: `VAMP_DATA_DIR`, or a folder in the user's cache.

    Raises `DatasetError` if the variable is not set and platformdirs, which finds the cache, is not installed.
    """
    if chosen := os.environ.get("VAMP_DATA_DIR"):
        return Path(chosen)
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise DatasetError(
            "name the folder of the data sets with --data-dir or VAMP_DATA_DIR, or: pip install platformdirs"
        ) from error
    return user_cache_path("vampprior") / "data"


def load_dataset(
    name: str, directory: Path | None = None, likelihood: Likelihood | None = None, wanted: Wanted | None = None
) -> Dataset:
    """Load a data set by its name, downloaded if need be, or the user's own images by their path.

    directory:  folder of the data sets; `data_directory()` if None
    likelihood: the model's; own gray images are thresholded at one half if it takes binary pixels only
    wanted:     how own images are prepared

    Raises `DatasetError` if the name is unknown, or the data cannot be downloaded or are damaged.
    """
    if _is_path(name):
        dataset = load_own_images(Path(name).expanduser(), wanted)
        return dataset.thresholded() if likelihood is not None and likelihood.binary else dataset
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(DATASETS)}, or give the path of own images")
    directory, source = directory or data_directory(), DATASETS[name]
    if not source.is_available(directory):
        source.fetch(directory)
    return source.load(directory)


def _is_path(name: str) -> bool:
    return name not in DATASETS and (
        name.endswith((".npz", ".npy")) or "/" in name or os.sep in name or Path(name).exists()
    )
