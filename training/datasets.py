"""The data sets there are, and where they are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from training.data.caltech101 import CALTECH101_SILHOUETTES
from training.data.digits import Digits
from training.data.frey_faces import FREY_FACES
from training.data.histopathology import HISTOPATHOLOGY
from training.data.mnist import DYNAMIC_MNIST, FASHION_MNIST
from training.data.omniglot import OMNIGLOT, OMNIGLOT_RAW28
from training.data.own_images import load_own_images
from training.data.splits import Dataset, DatasetError, Pixels
from training.data.static_mnist import STATIC_MNIST
from vampprior.likelihoods import Likelihood

__all__ = ["DATASETS", "Dataset", "DatasetError", "Pixels", "Source", "data_directory", "load_dataset", "load_suited"]


class Source(Protocol):
    """Where a data set comes from.

    name:    under which recipes and checkpoints know it
    summary: what it is, in a few words
    """

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    def is_there(self, directory: Path) -> bool:
        """Whether it can be loaded from that data directory as it is."""

    def fetch(self, directory: Path) -> None:
        """Get it into the data directory; raises `DatasetError`, which says how to get it by hand, if it cannot."""

    def load(self, directory: Path) -> Dataset:
        """Read and verify it; raises `DatasetError` if it is damaged."""


SOURCES: tuple[Source, ...] = (
    STATIC_MNIST,
    Digits(),
    DYNAMIC_MNIST,
    OMNIGLOT,
    OMNIGLOT_RAW28,
    CALTECH101_SILHOUETTES,
    *FREY_FACES,
    HISTOPATHOLOGY,
    FASHION_MNIST,
)
DATASETS = {source.name: source for source in SOURCES}


def data_directory() -> Path:
    """Where data sets are kept: `VAMP_DATA_DIR`, or a folder in the user's cache.

    Raises `DatasetError` if the variable is not set and platformdirs, which knows the folder, is not installed.
    """
    if chosen := os.environ.get("VAMP_DATA_DIR"):
        return Path(chosen)
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise DatasetError(
            "say with --data-dir or VAMP_DATA_DIR where data sets are, or: pip install platformdirs"
        ) from error
    return user_cache_path("vampprior") / "data"


def load_dataset(name: str, directory: Path | None = None) -> Dataset:
    """The data set of that name, fetched if need be, or the user's own images at that path.

    Raises `DatasetError` if there is none, if it cannot be had or if it is damaged.
    """
    if _is_path(name):
        return load_own_images(Path(name).expanduser())
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(DATASETS)}, or give the path of own images")
    directory, source = directory or data_directory(), DATASETS[name]
    if not source.is_there(directory):
        source.fetch(directory)
    return source.load(directory)


def load_suited(name: str, likelihood: Likelihood, directory: Path | None = None) -> Dataset:
    """`load_dataset`, with own gray images thresholded at one half if the likelihood takes binary pixels only."""
    dataset = load_dataset(name, directory)
    return dataset.thresholded() if likelihood.binary and _is_path(name) else dataset


def _is_path(name: str) -> bool:
    """Whether a recipe's `dataset` is the path of the user's own images; the name of a data set never is."""
    return name not in DATASETS and (name.endswith(".npz") or "/" in name or os.sep in name or Path(name).exists())
