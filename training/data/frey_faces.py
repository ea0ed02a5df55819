"""Frey Faces (Roweis & Frey): 1965 frames of a video of a face, in three random splits to repeat an experiment on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import DatasetError, Pixels, shuffled_splits
from training.data.pickles import read_pickle

__all__ = ["FREY_FACES"]

HEIGHT, WIDTH = 28, 20


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """The source is a list of one array with a frame per row."""
    path = paths["frames"]
    match read_pickle(path.read_bytes(), str(path)):
        case [np.ndarray(shape=(_, pixels)) as frames] if pixels == HEIGHT * WIDTH:
            return {"all": np.asarray(frames).reshape(-1, HEIGHT, WIDTH)}
    raise DatasetError(f"{path} is not a list of one array of rows of {HEIGHT * WIDTH} pixels")


def _split(arrays: Mapping[str, Pixels], seed: int) -> dict[str, Pixels]:
    """Shuffle the frames, since neighbours look alike. The paper's own order is unknown."""
    return shuffled_splits(arrays["all"], num_valid=200, num_test=200, seed=seed)


FREY_FACES = tuple(
    Archive(
        name=f"frey_faces_{number}",
        summary=f"video frames of a face, 28x20, 1565 / 200 / 200 images in random split {number} of 3, gray",
        file="frey_faces.npz",
        arrays={
            "all": StoredArray(
                (1965, HEIGHT, WIDTH), "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"
            )
        },
        downloads={
            "frames": RemoteFile(
                "https://raw.githubusercontent.com/jmtomczak/vae_vampprior/master/datasets/Freyfaces/freyfaces.pkl",
                "sha256:3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a",
            )
        },
        convert=_convert,
        prepare=partial(_split, seed=number),
        levels=255,
    )
    for number in (1, 2, 3)
)
