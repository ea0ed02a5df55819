from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.io import savemat

from training.data.archive import Archive
from training.data.caltech101 import CALTECH101_SILHOUETTES
from training.data.dataset import SPLITS, Pixels


def test_silhouettes_are_upright_and_ones(
    at_home: Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    silhouettes = {split: rng.integers(0, 2, (3, 28, 28), dtype=np.uint8) for split in SPLITS}
    raw = {split: 1 - images for split, images in silhouettes.items()}
    rows = {split: images.transpose(0, 2, 1).reshape(3, 784) for split, images in raw.items()}
    with BytesIO() as file:
        savemat(file, {"train_data": rows["train"], "val_data": rows["valid"], "test_data": rows["test"]})
        content = file.getvalue()
    small = at_home(CALTECH101_SILHOUETTES, {"silhouettes": content}, raw)
    small.fetch(tmp_path)
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("caltech101_silhouettes", 1, False)
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split)[:, 0], silhouettes[split])
    with np.load(tmp_path / "caltech101_silhouettes.npz") as stored:
        assert np.array_equal(stored["train"], raw["train"])
