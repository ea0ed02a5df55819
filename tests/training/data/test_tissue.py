"""The patches of a photograph of tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skimage import data

from training.data import DATASETS, load_dataset
from training.data.tissue import PREPARATION


def test_splits_come_from_different_columns_of_the_photograph(tmp_path: Path) -> None:
    dataset = load_dataset("tissue", tmp_path)
    sizes = [len(getattr(dataset, split)) for split in ("train", "valid", "test")]
    assert "{} / {} / {} images".format(*sizes) in DATASETS["tissue"].summary
    assert dataset.image_shape == PREPARATION.image_shape == (3, 16, 16)
    assert (dataset.kind, dataset.preparation) == ("colour", PREPARATION)
    photograph = data.immunohistochemistry()
    for images, first, last in ((dataset.train, 0, 320), (dataset.valid, 320, 416), (dataset.test, 416, 512)):
        np.testing.assert_array_equal(images[0], PREPARATION.prepare(photograph[:32, first : first + 32]))
        np.testing.assert_array_equal(images[-1], PREPARATION.prepare(photograph[-32:, last - 32 : last]))
