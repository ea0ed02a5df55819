from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data import Dataset
from training.report.novel_sets import altered_sets, choose, foreign_sets

Bytes = NDArray[np.uint8]


def blobs(count: int, height: int, width: int) -> Bytes:
    """White images with a black pixel each in the first row, and a gray one in the last."""
    images = np.full((count, height, width), 255, np.uint8)
    images[np.arange(count), 0, np.arange(count) % width] = 0
    images[:, -1, -1] = 100
    return images


@pytest.fixture
def gray() -> Bytes:
    return blobs(6, 28, 20)


def altered(images: Bytes, binary: bool = False, seed: int = 0, margin: int = 0) -> dict[str, Bytes]:
    return altered_sets(images, binary, np.random.default_rng(seed), margin)


def test_a_seed_gives_the_same_sets_and_leaves_the_images_alone() -> None:
    gray = np.random.default_rng(0).integers(50, 200, (6, 28, 20), dtype=np.uint8)
    before = gray.copy()
    one, again, other = altered(gray), altered(gray), altered(gray, seed=1)
    np.testing.assert_array_equal(gray, before)
    assert all(np.array_equal(images, again[name]) for name, images in one.items())
    assert {name for name in one if not np.array_equal(one[name], other[name])} == {
        "noise",
        "shuffled",
        "hole",
        "stroke",
        "overlay",
        "shift",
    }
    assert {(images.shape, images.dtype) for images in one.values()} == {((6, 28, 20), np.dtype(np.uint8))}


def test_only_sets_of_gray_models_have_other_levels_than_black_and_white() -> None:
    square = altered(np.where(blobs(6, 8, 8) > 128, np.uint8(255), np.uint8(0)), binary=True)
    assert "rotated by 90 degrees" in square
    assert "uniform gray" not in square
    assert all(set(np.unique(images)) <= {0, 255} for images in square.values())


def test_each_set_is_what_its_name_says(gray: Bytes) -> None:
    sets = altered(gray, margin=5)
    np.testing.assert_array_equal(sets["flipped left to right"][:, :, ::-1], gray)
    np.testing.assert_array_equal(sets["flipped upside down"][:, ::-1], gray)
    np.testing.assert_array_equal(sets["rotated by 180 degrees"][:, ::-1, ::-1], gray)
    np.testing.assert_array_equal(sets["inverted"], 255 - gray.astype(int))
    assert not sets["blank"].any()
    assert (np.sort(sets["shuffled"].reshape(6, -1)) == np.sort(gray.reshape(6, -1))).all()
    assert (sets["60 levels brighter"] == np.minimum(gray.astype(int) + 60, 255)).all()
    assert ((sets["hole"] != gray).sum((1, 2)) == 64).all()
    assert (sets["hole"][:, 5:23, 5:15] != gray[:, 5:23, 5:15]).sum() == 6 * 64
    strokes = altered(255 - gray)["stroke"] != 255 - gray
    assert {tuple(sorted((int(one.any(0).sum()), int(one.any(1).sum())))) for one in strokes} <= {(2, 16), (2, 24)}
    for image, moved in zip(gray, sets["shift"], strict=True):
        down, right = (np.argwhere(moved == 100) - np.argwhere(image == 100))[0] % (28, 20)
        assert min(down, 28 - down) in (4, 5, 6)
        assert min(right, 20 - right) in (4, 5, 6)


def test_a_hole_in_a_small_image_leaves_some_of_it() -> None:
    images = blobs(3, 8, 8)
    assert ((altered(images, margin=1)["hole"] != images).sum((1, 2)) == 16).all()


def test_other_data_sets_are_cropped_and_thresholded_as_the_model_needs_it(tmp_path: Path, digits: Dataset) -> None:
    random = np.random.default_rng(0)
    assert foreign_sets("digits", (8, 8), True, 5, tmp_path, random) == {}
    assert [len(choose(digits.test, count, random)) for count in (5, 1000)] == [5, 250]


def test_a_foreign_set_shows_the_centre_of_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = np.arange(28, dtype=np.uint8) * 9 + np.zeros((7, 1, 28, 28), np.uint8)
    dataset = Dataset("fashion_mnist", images, images, images, levels=255)

    class Source:
        name, summary, levels = "fashion_mnist", "", 255

        def __init__(self, available: bool) -> None:
            self.available = available

        def is_available(self, directory: Path) -> bool:
            return self.available

    sources = {name: Source(name == "fashion_mnist") for name in ("fashion_mnist", "omniglot", "omniglot_raw28")}
    sources |= {name: Source(False) for name in ("caltech101_silhouettes", "static_mnist")}
    monkeypatch.setattr("training.report.novel_sets.DATASETS", sources)
    monkeypatch.setattr("training.report.novel_sets.load_dataset", lambda name, directory: dataset)
    random = np.random.default_rng(0)
    (found,) = foreign_sets("frey_faces_1", (28, 20), False, 5, tmp_path, random).values()
    assert (found == np.arange(4, 24) * 9).all()
    assert found.shape == (5, 28, 20)
    (binary,) = foreign_sets("static_mnist", (28, 28), True, 5, tmp_path, random).values()
    assert (binary == np.where(np.arange(28) * 9 >= 128, 255, 0)).all()
    assert foreign_sets("fashion_mnist", (28, 28), False, 5, tmp_path, random) == {}
    assert foreign_sets("large", (32, 32), False, 5, tmp_path, random) == {}
