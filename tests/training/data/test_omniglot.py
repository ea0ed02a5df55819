from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from training.data.archive import Archive
from training.data.dataset import DatasetError, Pixels
from training.data.omniglot import OMNIGLOT, OMNIGLOT_RAW28, nearest_levels

AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]
NUM_DRAWINGS, NUM_TEST = 1350, 4


@pytest.fixture
def levels() -> Pixels:
    """Images (N, 28, 28) that all differ, most of each blank."""
    images = np.zeros((NUM_DRAWINGS + NUM_TEST, 28, 28), np.uint8)
    images[:, 3, 5:25] = np.random.default_rng(0).integers(0, 256, (len(images), 20))
    return images


@pytest.fixture
def small(levels: Pixels, at_home: AtHome) -> Archive:
    """The data set with five drawings to train on, in a file laid out as the original is."""
    columns = levels.transpose(2, 1, 0).reshape(784, -1) / 255
    data, testdata = np.split(columns, [NUM_DRAWINGS], axis=1)
    with BytesIO() as file:
        savemat(file, {"data": data, "testdata": testdata, "target": np.eye(50)}, do_compression=True)
        content = file.getvalue()
    splits = np.split(levels, [5, NUM_DRAWINGS])
    return at_home(OMNIGLOT, {"drawings": content}, dict(zip(("train", "valid", "test"), splits, strict=True)))


def test_drawings_are_upright_and_validation_images_drawn_from_them(
    small: Archive, levels: Pixels, tmp_path: Path
) -> None:
    small.fetch(tmp_path)
    with np.load(tmp_path / "omniglot.npz") as stored:
        drawings, valid, test = (stored[split] for split in ("train", "valid", "test"))
    assert np.array_equal(test, levels[NUM_DRAWINGS:])
    together = [image.tobytes() for image in np.concatenate([drawings, valid])]
    assert sorted(together) == sorted(image.tobytes() for image in levels[:NUM_DRAWINGS])
    assert together != [image.tobytes() for image in levels[:NUM_DRAWINGS]]


def test_it_is_gray_for_training_and_binary_for_the_rest(small: Archive, tmp_path: Path) -> None:
    small.fetch(tmp_path)
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("omniglot", 1, True)
    assert dataset.train.max() > 1
    assert dataset.valid.max() == dataset.test.max() == 1
    (tmp_path / "omniglot.npz").unlink()
    small.fetch(tmp_path)
    assert small.load(tmp_path).describe() == dataset.describe()


def test_the_stand_in_is_not_for_download(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"omniglot_raw28 cannot be downloaded; put .*, as uint8 arrays train \(2300"
    ):
        OMNIGLOT_RAW28.fetch(tmp_path)
    assert "cannot be compared" in OMNIGLOT_RAW28.summary


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractions_become_the_nearest_levels(dtype: type[np.floating]) -> None:
    levels = np.arange(256)
    assert nearest_levels((levels / 255).astype(dtype), "it").tolist() == levels.tolist()
    assert nearest_levels(np.array([0.4, 0.6, 254.4, 254.6], dtype) / 255, "it").tolist() == [0, 1, 254, 255]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1.01], "it has values outside 0 to 1: from 0.5 to 1.01"),
        ([-0.01, 0.5], "it has values outside 0 to 1: from -0.01 to 0.5"),
        ([np.nan, 0.5], "it has values outside 0 to 1"),
        ([0, 1], "it holds int64 values, not fractions"),
    ],
)
def test_other_values_than_fractions_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        nearest_levels(np.array(values), "it")
